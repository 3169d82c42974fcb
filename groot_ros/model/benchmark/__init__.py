"""How fast a GR00T network is on this machine: `python -m groot_ros.model.benchmark policy` and `... sampler`.

Needs torch, transformers, safetensors, NumPy and OpenCV, and neither ROS nor an installed package, so that it runs on a
bare GPU machine from a checkout. `groot-ros benchmark policy` and `sampler` are the same.

`policy`: camera pictures to physical actions, plain and with each optimisation. `sampler`: the action head alone.
`floors`: the least time that memory and arithmetic of a GPU allow.
"""
