import pytest
from huggingface_hub.utils import filter_repo_objects

from longattn.errors import RunError
from longattn.export import push
from longattn.export.exporting import FORMATS
from longattn.settings import Exporting


class FakeHub:
    """Stands in for ``HfApi`` and keeps what it is told."""

    calls: list

    def __init__(self, **arguments):
        pass

    def create_repo(self, repo_id, **arguments):
        self.calls.append(("create", repo_id, arguments))
        return f"https://hub/datasets/{repo_id}"

    def upload_folder(self, **arguments):
        self.calls.append(("upload", arguments.pop("repo_id"), arguments))


@pytest.fixture
def hub(monkeypatch):
    FakeHub.calls = []
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    return FakeHub


def test_an_export_is_pushed_private(made, hub):
    made.export()
    assert push(made.output, "org/name") == "https://hub/datasets/org/name"
    (create, _, created), (upload, repository, uploaded) = hub.calls
    assert (create, upload, repository) == ("create", "upload", "org/name")
    assert created == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert uploaded["folder_path"] == made.output


@pytest.mark.parametrize("format", FORMATS)
def test_what_an_earlier_export_left_goes(made, hub, format):
    """Of whatever format, so that no stale part is loaded with the new ones; but not the card, which is replaced."""
    summary = made.export(Exporting(format=format, content="tokens"))
    push(made.output, "org/name")
    patterns = hub.calls[-1][2]["delete_patterns"]
    assert list(filter_repo_objects([file.name for file in summary.files], ignore_patterns=patterns)) == []
    assert list(filter_repo_objects(["README.md"], ignore_patterns=patterns)) == ["README.md"]


def test_what_is_no_export_is_not_pushed(tmp_path, hub):
    with pytest.raises(RunError, match="no finished export"):
        push(tmp_path, "org/name")
    assert hub.calls == []


def test_the_real_library_takes_these_arguments():
    """The signatures, without a network: a renamed argument must not wait for the first real push."""
    import inspect

    from huggingface_hub import HfApi

    inspect.signature(HfApi).bind(library_name="longattn")
    api = HfApi()
    inspect.signature(api.create_repo).bind("org/name", repo_type="dataset", private=True, exist_ok=True)
    inspect.signature(api.upload_folder).bind(
        repo_id="org/name",
        repo_type="dataset",
        folder_path=".",
        delete_patterns=["data/*"],
        commit_message="",
    )
