"""`v2t` under FSDP on the CPU, for the tests: accelerate offers FSDP to GPUs alone, and is told here that it has some."""

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from v2t_cli.cli import app

start = PartialState.__init__


def with_gpus(self, cpu=False, **arguments):
    new = not self.initialized
    start(self, cpu, **arguments)
    if new:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = with_gpus
app()
