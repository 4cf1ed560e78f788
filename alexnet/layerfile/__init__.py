"""cuda-convnet's layer files (.cfg): `parse.read` gives records, `build` a net of modules.

import alexnet.layerfile
net = alexnet.layerfile.build("layers-145.cfg", "layer-params-145.cfg", classes=10)
"""

from alexnet.layerfile.build import LayerNet, build

__all__ = ["LayerNet", "build"]
