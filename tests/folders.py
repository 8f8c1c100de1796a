"""Run folders as other runs would have made them."""

import json
import shutil


def alter(run, folder, *, result=None, **settings):
    """Copy a run folder as a run with other settings would have made it."""
    shutil.copytree(run, folder)
    identity = json.loads((folder / "identity.json").read_text())
    changes = {
        "config.json": settings,
        "identity.json": {"settings": identity["settings"] | settings},
        "result.json": {"run_id": folder.name} | (result or {}),
    }
    for name, change in changes.items():
        value = json.loads((folder / name).read_text()) | change
        (folder / name).write_text(json.dumps(value))
    return folder
