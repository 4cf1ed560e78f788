"""One run on several processes, as the papers did it:

torchrun --nproc-per-node N -m -- alexnet train ... --parallel HOW     (without -- torchrun takes --run for its own)

data     every process has the whole net and a share of each batch; gradients are added up during the backward pass
towers   2012: every process has a tower and sees the whole batch; exchange where towers talk and at the dense layers
hybrid   2014: convolutions as in `data`, dense layers as in `towers`, pictures changing hands in between

The net does not know: `split` cuts the weights of a one-process net and hangs hooks on its layers. What is trained is
what one process would train, picture for picture and mask for mask, up to the order of additions; checkpoints are
those of one process, so that a run may go on under any number of them.
"""

from alexnet.parallel.split import split
from alexnet.parallel.team import Team, Unheard, WholeBatch, join, together

__all__ = ["Team", "Unheard", "WholeBatch", "join", "split", "together"]
