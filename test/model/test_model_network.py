"""Behaviour of the network that references cannot show: refusals, dropout, sampling of time and noise, dtypes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.model.action_head import RtcOptions, velocity_strength
from groot_ros.model.attention import attend
from groot_ros.model.checkpoint import load_model
from groot_ros.model.positions import mrope_position_ids, patch_coordinates, position_table_lookup


@pytest.fixture(scope="module")
def model(own_n1d7):
    return own_n1d7.model


@pytest.fixture
def inputs(own_n1d7):
    return dict(own_n1d7.inputs)


BAD_INPUTS = {
    "missing": (lambda x: x.pop("state"), ["lack state"]),
    "state history": (lambda x: x.update(state=x["state"][:, :1]), ["state", "(2, 1, 10)", "(2, 2, 10)"]),
    "state batch": (lambda x: x.update(state=x["state"][:1]), ["state", "(1, 2, 10)"]),
    "mask": (lambda x: x.update(attention_mask=x["attention_mask"][:, 1:]), ["attention_mask", "(2, 22)"]),
    "embodiment": (lambda x: x.update(embodiment_id=torch.tensor([0, 4])), ["embodiment_id", "[0, 4]", "0..3"]),
    "patches": (lambda x: x.update(pixel_values=x["pixel_values"][1:]), ["pixel_values", "(51, 1536)", "(52, 1536)"]),
    "lost image": (
        lambda x: x.update(image_grid_thw=x["image_grid_thw"][:3], pixel_values=x["pixel_values"][:44]),
        ["more images than the 3"],
    ),
    "other grid": (
        lambda x: x.update(image_grid_thw=torch.tensor([[1, 4, 6], [1, 2, 2], [1, 4, 4], [1, 4, 2]])),
        ["image 0", "6 tokens", "sample 0"],
    ),
    "no image": (
        lambda x: x.update(image_grid_thw=torch.zeros(0, 3, dtype=torch.int64), pixel_values=torch.zeros(0, 1536)),
        ["image_grid_thw is empty"],
    ),
    "video": (lambda x: x["image_grid_thw"].__setitem__((0, slice(None)), torch.tensor([2, 4, 2])), ["1 frame"]),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_refused_by_name(model, inputs, case):
    change, expected = BAD_INPUTS[case]
    inputs["image_grid_thw"] = inputs["image_grid_thw"].clone()
    change(inputs)
    with pytest.raises(ValueError) as error:
        model.sample(inputs)
    for word in expected:
        assert word in str(error.value)


def test_an_image_without_tokens_is_refused(model, inputs):
    grids = torch.cat((inputs["image_grid_thw"], torch.tensor([[1, 2, 2]])))
    pixels = torch.cat((inputs["pixel_values"], inputs["pixel_values"][:4]))
    with pytest.raises(ValueError, match="5 images, input_ids hold tokens for 4"):
        model.sample({**inputs, "image_grid_thw": grids, "pixel_values": pixels})


RTC_DEFAULTS = {"action_horizon": 8, "overlap_steps": 4, "frozen_steps": 2, "ramp_rate": 6.0}
BAD_RTC = {
    "frozen over overlap": ({"frozen_steps": 5}, "frozen_steps"),
    "overlap over horizon": ({"action_horizon": 3}, "overlap_steps"),
    "horizon over previous": ({"action_horizon": 9}, "holds 8 steps"),
    "negative": ({"frozen_steps": -1}, "frozen_steps"),
    "rate": ({"ramp_rate": 0.0}, "ramp_rate"),
}


@pytest.mark.parametrize("case", BAD_RTC)
def test_bad_rtc_options_are_refused(model, inputs, own_n1d7, case):
    change, expected = BAD_RTC[case]
    options = RtcOptions(own_n1d7.io["in.prev_action"], **{**RTC_DEFAULTS, **change})
    with pytest.raises(ValueError, match=expected):
        model.sample(inputs, rtc=options)


def test_a_prompt_longer_than_the_positions_is_refused(model, inputs):
    longer = model.max_prompt_tokens + 1 - inputs["input_ids"].shape[1]
    for key in ("input_ids", "attention_mask"):
        inputs[key] = torch.nn.functional.pad(inputs[key], (longer, 0))
    with pytest.raises(ValueError, match=rf"{model.max_prompt_tokens + 1} tokens .* at most {model.max_prompt_tokens}"):
        model.sample(inputs)


def test_rtc_of_another_batch_is_refused(model, inputs, own_n1d7):
    with pytest.raises(ValueError, match="prev_action"):
        model.sample(inputs, rtc=RtcOptions(own_n1d7.io["in.prev_action"][:1], **RTC_DEFAULTS))


@given(horizon=st.integers(1, 50), parts=st.tuples(st.floats(0, 1), st.floats(0, 1)), rate=st.floats(0.1, 20))
@settings(max_examples=60, deadline=None)
def test_velocity_strength_rises_from_frozen_to_free(horizon, parts, rate):
    overlap = int(parts[0] * horizon)
    frozen = int(parts[1] * overlap)
    strength = velocity_strength(horizon, overlap, frozen, rate)
    assert strength.shape == (horizon,)
    assert (strength[:frozen] == 0).all() and (strength[overlap:] == 1).all()
    ramp = strength[frozen:overlap]
    assert (ramp > 0).all() and (ramp <= 1).all() and (ramp.diff() >= 0).all()


def test_velocity_strength_example_of_the_spec():
    expected = torch.tensor([0, 0, 0.7788, 0.9526, 0.9913, 1, 1, 1])
    torch.testing.assert_close(velocity_strength(8, 5, 2, 6.0), expected, atol=5e-5, rtol=0)


def test_number_of_steps_and_noise_shape_are_checked(model, inputs):
    with pytest.raises(ValueError, match="num_steps is 0"):
        model.sample(inputs, num_steps=0)
    with pytest.raises(ValueError, match=r"noise has shape \(2, 7, 9\)"):
        model.sample(inputs, torch.zeros(2, 7, 9))


def test_generator_decides_the_noise(model, inputs):
    def sample(seed):
        return model.sample(inputs, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_sample_does_not_change_the_noise_it_is_given(model, inputs):
    noise = torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(0))
    kept = noise.clone()
    model.sample(inputs, noise)
    assert torch.equal(noise, kept)


def test_padding_holds_finite_features(model, inputs):
    features = model.backbone(inputs).features
    assert features[inputs["attention_mask"] == 0].isfinite().all()


def test_bfloat16_stays_near_float32(own_n1d7, tmp_path):
    (tmp_path / "config.json").symlink_to(own_n1d7.path / "config.json")
    (tmp_path / "model.safetensors").symlink_to(own_n1d7.path / "weights.safetensors")
    half = load_model(tmp_path, dtype=torch.bfloat16)
    actions = half.sample(own_n1d7.inputs, own_n1d7.io["in.init_noise"])
    assert actions.dtype == torch.float32
    torch.testing.assert_close(actions, own_n1d7.io["out.get_action.action_pred"], atol=0.1, rtol=0)


def test_loss_ignores_what_the_mask_excludes(model, inputs):
    noise, t = torch.zeros(2, 8, 9), torch.tensor([0.3, 0.6])
    out = model.loss(inputs, noise, t)
    assert (out.action_loss[inputs["action_mask"] == 0] == 0).all()
    expected = out.action_loss.sum() / inputs["action_mask"].sum()
    torch.testing.assert_close(out.loss, expected)


def test_loss_draws_noise_and_time(model, inputs):
    torch.manual_seed(0)
    first, second = model.loss(inputs), model.loss(inputs)
    assert first.loss != second.loss
    assert ((first.timestep >= 0) & (first.timestep < 1000)).all()


def test_training_times_follow_the_beta_distribution(model):
    torch.manual_seed(0)
    t = model.action_head.sample_time(20000, torch.device("cpu"))
    config = model.config
    assert t.min() >= 0 and t.max() <= config.noise_s
    # Mean of 1 - Beta(a, b), and its share below one half: P(Beta(1.5, 1) > 0.5) = 1 - 0.5^1.5.
    mean = config.noise_s * config.noise_beta_beta / (config.noise_beta_alpha + config.noise_beta_beta)
    assert t.mean().item() == pytest.approx(mean, abs=0.01)
    assert (t < 0.5 * config.noise_s).float().mean().item() == pytest.approx(1 - 0.5**1.5, abs=0.02)


@pytest.fixture
def training_model(own_n1d7, tmp_path):
    (tmp_path / "config.json").symlink_to(own_n1d7.path / "config.json")
    (tmp_path / "model.safetensors").symlink_to(own_n1d7.path / "weights.safetensors")
    return load_model(tmp_path)


def test_dropout_acts_in_training_only(training_model, inputs):
    noise, t = torch.zeros(2, 8, 9), torch.tensor([0.3, 0.6])
    evaluated = [training_model.loss(inputs, noise, t).loss for _ in range(2)]
    assert torch.equal(*evaluated)
    training_model.train()
    torch.manual_seed(0)
    trained = [training_model.loss(inputs, noise, t).loss for _ in range(2)]
    assert not torch.equal(*trained)


def test_state_dropout_removes_the_state_in_training(training_model, inputs):
    config = training_model.config
    for module in training_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    noise, t = torch.zeros(2, 8, 9), torch.tensor([0.3, 0.6])
    other = {**inputs, "state": -inputs["state"]}

    def losses(probability):
        config.state_dropout_prob = probability
        training_model.train()
        return [training_model.loss(x, noise, t).loss for x in (inputs, other)]

    assert torch.equal(*losses(1.0))
    assert not torch.equal(*losses(0.0))


def test_a_query_that_may_see_nothing_gets_zero():
    q, k, v = (torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    mask = torch.tensor([[False, False, False], [True, False, True], [True, True, True]])
    out = attend(q, k, v, mask)
    assert (out[:, :, 0] == 0).all()
    torch.testing.assert_close(out[:, :, 2], attend(q, k, v)[:, :, 2])


IMAGE, TEXT, PAD = 9, 1, 0
GRIDS = st.tuples(st.just(1), st.integers(1, 5).map(lambda n: 2 * n), st.integers(1, 5).map(lambda n: 2 * n))


@given(st.lists(st.tuples(st.integers(0, 3), GRIDS), min_size=1, max_size=3), st.integers(0, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_position_ids_of_any_prompt(parts, tail, padding):
    row = [PAD] * padding
    for words, (_, rows, cols) in parts:
        row += [TEXT] * words + [IMAGE] * (rows * cols // 4) + [TEXT]
    row += [TEXT] * tail
    ids, grids = torch.tensor([row]), [grid for _, grid in parts]
    mask = torch.tensor([[0] * padding + [1] * (len(row) - padding)])
    out = mrope_position_ids(ids, mask, grids, image_token_id=IMAGE, merge=2)[:, 0]
    assert (out[:, :padding] == 1).all()
    at, following = padding, 0
    for words, (_, rows, cols) in parts:
        for _ in range(words):
            assert out[:, at].tolist() == [following] * 3
            at, following = at + 1, following + 1
        for i in range(rows // 2):
            for j in range(cols // 2):
                assert out[:, at].tolist() == [following, following + i, following + j]
                at += 1
        following += max(rows, cols) // 2
        assert out[:, at].tolist() == [following] * 3
        at, following = at + 1, following + 1
    assert out[:, at:].tolist() == [list(range(following, following + tail))] * 3


def test_position_ids_of_equal_prompts_with_other_images():
    """Rows of one text are copied, unless an image has another shape: 2 x 3 and 3 x 2 are as many tokens."""
    row = [TEXT, *[IMAGE] * 6, TEXT]
    grids = [(1, 4, 6), (1, 4, 6), (1, 6, 4), (1, 4, 6)]
    ids = torch.tensor([row] * 4)
    out = mrope_position_ids(ids, torch.ones_like(ids), grids, image_token_id=IMAGE, merge=2)
    for b, grid in enumerate(grids):
        alone = mrope_position_ids(ids[:1], torch.ones_like(ids[:1]), [grid], image_token_id=IMAGE, merge=2)
        assert torch.equal(out[:, b], alone[:, 0])
    assert not torch.equal(out[:, 1], out[:, 2])
    with pytest.raises(ValueError, match="holds 4 images, input_ids hold tokens for 3"):
        mrope_position_ids(ids[:3], torch.ones_like(ids[:3]), grids, image_token_id=IMAGE, merge=2)
    with pytest.raises(ValueError, match="sample 3 hold more images than the 3"):
        mrope_position_ids(ids, torch.ones_like(ids), grids[:3], image_token_id=IMAGE, merge=2)


def test_images_of_one_size_go_through_the_tower_as_each_alone(model):
    """They share one call of the attention; of different sizes, each has its own."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3 * 16, 1536, generator=generator)
    with torch.no_grad():
        together, taps = model.backbone.encode_images(pixels, [(1, 4, 4)] * 3)
        mixed, _ = model.backbone.encode_images(pixels[8:], [(1, 4, 2), (1, 4, 4), (1, 4, 4)])
        torch.testing.assert_close(together[4:], mixed[2:])
        for i, part in enumerate(pixels.split(16)):
            alone, alone_taps = model.backbone.encode_images(part, [(1, 4, 4)])
            torch.testing.assert_close(together[4 * i : 4 * i + 4], alone)
            for tap, alone_tap in zip(taps, alone_taps, strict=True):
                torch.testing.assert_close(tap[4 * i : 4 * i + 4], alone_tap)
    assert not torch.allclose(together[:4], together[4:8])


@given(st.lists(GRIDS, min_size=1, max_size=3), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_position_table_is_interpolated_linearly(grids, side):
    # A table that is linear in row and column is reproduced at the stretched places, corners on corners.
    table = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), dim=-1).flatten(0, 1)
    coordinates = patch_coordinates(grids, 2, torch.device("cpu"))
    indices, weights = position_table_lookup(grids, coordinates, side)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(len(coordinates)))
    found = (table[indices].float() * weights[..., None]).sum(dim=0)
    at = 0
    for _, rows, cols in grids:
        block = coordinates[at : at + rows * cols]
        assert {tuple(c) for c in block.tolist()} == {(r, c) for r in range(rows) for c in range(cols)}
        scale = torch.tensor([(side - 1) / (rows - 1), (side - 1) / (cols - 1)])
        torch.testing.assert_close(found[at : at + rows * cols], block * scale, atol=1e-4, rtol=1e-4)
        at += rows * cols
