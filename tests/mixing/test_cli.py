"""What the verb of mixtures takes and prints."""

import json

from longattn import cli


def test_mix_from_a_file_and_flags(kitchen, tmp_path, capsys):
    for name in ("wiki", "web"):
        lines = [json.dumps({"text": f"{name} {i} " * 20}) for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "mix.toml").write_text(
        f'documents = ["wiki={tmp_path}/wiki.jsonl", "web={tmp_path}/web.jsonl"]\n'
        f'length = 32\nmodel = "{kitchen.model}"\nend_token = 0\ntokens = 1000\nshares = {{wiki = 3, web = 1}}\n'
    )
    flags = ["--config", str(tmp_path / "mix.toml"), "-o", str(tmp_path / "mix")]
    assert cli.launch(["mix", *flags]) == 0
    assert "31 sequences of 32 tokens, 992 in all" in capsys.readouterr().out
    assert cli.launch(["mix", *flags, "--tokens", "256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "mix" / "export.json").read_bytes())
    assert found["windows"] == {"web": 2, "wiki": 6}


def test_mix_without_sources_says_how_to_name_them(tmp_path, capsys):
    assert cli.launch(["mix", "-o", str(tmp_path / "mix")]) == 1
    assert "--windows NAME=RUN, --documents NAME=PATH" in capsys.readouterr().err
