"""`alexnet verify`: is it intact, and as good as it says?"""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, emit, progress


@VERBS.command
def verify(
    path: Positional[Annotated[str, arg(metavar="PATH")]], /, data: str | None = None, json: Json = False
) -> None:
    """Is this pack, run or model file intact? A model's accuracy is measured again and must be what it says.

    Of a run that is not finished, the checkpoints are read and compared with their hashes.

    Args:
        path: a pack (also s3://bucket/photos.pack), a run folder or a model file.
        data: the data to measure on, where a model file is not in its run folder.
    """
    from alexnet import verify as verifying

    record = verifying.verify(path, data, progress)
    if record["kind"] == "pack":
        text = f"intact, {record['images']:,} pictures in {record['shards']} shards"
    elif record["kind"] == "run":
        text = f"not finished; {record['checkpoints']} checkpoints are intact, the newest at step {record['step']:,}"
    else:
        text = f"measured {tables.errors(record, [])}, as it says"
    emit(record, json, f"{path}: {text}")
