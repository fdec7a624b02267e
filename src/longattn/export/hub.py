"""Put an export on the Hugging Face hub."""

from pathlib import Path

from longattn.errors import RunError
from longattn.export.summary import FILE_NAME


def push(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload an export as the dataset ``repository`` (``org/name``) and return its address.

    The dataset is made if it does not exist, private unless asked otherwise; one that exists keeps its
    visibility. Files of an earlier export that are not in this one are removed, so that no stale part is
    loaded with the new ones. An interrupted upload is continued by calling again.
    """
    from huggingface_hub import HfApi

    if not (folder / FILE_NAME).exists():
        raise RunError(f"{folder} is no finished export; export before pushing")
    api = HfApi(library_name="longattn")
    address = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repository,
        repo_type="dataset",
        folder_path=folder,
        delete_patterns=["data/*", "figures/*", FILE_NAME],
        commit_message="Upload windows selected by longattn",
    )
    return str(address)
