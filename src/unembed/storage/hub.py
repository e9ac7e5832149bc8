"""Folders to the Hub."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory


def push_folder(save: Callable[[Path], None], repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Upload what `save` writes into a folder; returns the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as parent:
        save(Path(parent) / "inverter")
        return str(api.upload_folder(repo_id=repo_id, folder_path=Path(parent) / "inverter"))
