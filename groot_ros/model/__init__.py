"""The GR00T networks: torch only, no ROS.

`checkpoint.load_model` reads NVIDIA's checkpoint directories, `make_checkpoint.make_checkpoint` writes random ones, and
`groot.GrootModel` is the network: `backbone`, `loss` and `sample`. Parameter names are NVIDIA's.
"""
