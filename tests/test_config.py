"""Configs: what is refused and in which words, paths, overrides, and what the digest is made of."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from stillstack.config import (
    RunConfig,
    config_digest,
    json_schema,
    load_config,
    make_config,
    result_settings,
    to_yaml,
)
from stillstack.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
LEAST = {"input": {"path": "/in.zarr"}, "output": {"path": "/out.zarr"}}

# One setting of every kind that has another value than its default.
CHANGES: list[tuple[str, Any]] = [
    ("input.path", "/other.zarr"),
    ("input.variable", "counts"),
    ("input.pattern", "{n:d}.tif"),
    ("output.aligned", False),
    ("output.codec", "lz4"),
    ("output.chunk_frames", 4),
    ("valid.frames.exclude", [{"rectangle": [0, 1, 0, 1]}]),
    ("valid.frames.include", [{"circle": [5, 5, "40%"]}]),
    ("valid.frames.image", "/valid.tif"),
    ("valid.frames.below", 1),
    ("valid.frames.above", 4000),
    ("valid.frames.equal", [7]),
    ("valid.frames.defects", True),
    ("valid.reference", {"defects": True}),
    ("reference.kind", "first"),
    ("reference.frames", 16),
    ("reference.start", 2),
    ("reference.stop", 50),
    ("reference.refine", 2),
    ("registration.max_shift_px", 48),
    ("registration.min_overlap", 0.5),
    ("registration.min_ncc", 0.1),
    ("registration.max_peak_ratio", 0.8),
    ("registration.gain", 3.0),
    ("registration.read_noise", 2.0),
    ("alignment.interpolation", "linear"),
    ("alignment.dtype", "float32"),
    ("alignment.canvas", "common"),
    ("correction.dark", "/dark.tif"),
    ("correction.gain", "/gain.tif"),
    ("correction.defects", [[5, 7]]),
    ("exclude.frames", [3, "10-20"]),
    ("exclude.time", [[0, 60]]),
    ("exclude.values", {"scan": [3]}),
    ("exclude.expression", "delay > 5"),
    ("groups", {"by": "delay"}),
    ("trajectory", {"smooth": True}),
    ("output.ome_zarr", True),
    ("input.engine", "zarr"),
]
NO_CHANGES: list[tuple[str, Any]] = [
    ("output.path", "/elsewhere"),
    ("output.durable", False),
    ("output.block_frames", 8),
    ("cluster.workers", 3),
    ("cluster.memory_limit", "2GiB"),
    ("cluster", {"kind": "address", "address": "tcp://10.0.0.1:8786"}),
]


def put(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    settings = copy.deepcopy(settings)
    *sections, name = key.split(".")
    inner = settings
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[name] = value
    return settings


def shuffled(value: Any, draw: Any) -> Any:
    """The same settings with keys in another order and whole numbers spelt otherwise."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, draw) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        return draw(st.sampled_from([int(value), float(value), f"{value}"]))
    return value


def faults(text: str, tmp_path: Path, overrides: tuple[str, ...] = ()) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@given(
    st.data(),
    st.sets(st.sampled_from(range(len(CHANGES)))),
    st.sets(st.sampled_from(range(len(NO_CHANGES) - 1))),
)
def test_equal_results_have_equal_digests(
    data: st.DataObject, changed: set[int], unimportant: set[int]
) -> None:
    # the one needs what the other leaves out
    assume(not {"output.aligned", "output.ome_zarr"} <= {CHANGES[number][0] for number in changed})
    settings: dict[str, Any] = LEAST
    for number in sorted(changed):
        settings = put(settings, *CHANGES[number])
    config = make_config(settings)
    other = shuffled(settings, data.draw)
    for number in unimportant:
        other = put(other, *NO_CHANGES[number])
    assert config_digest(make_config(other)) == config_digest(config)
    written_out = yaml.safe_load(to_yaml(config))
    assert make_config(written_out) == config
    assert config_digest(make_config(written_out)) == config_digest(config)


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_what_changes_the_result_changes_the_digest(key: str, value: Any) -> None:
    assert config_digest(make_config(put(LEAST, key, value))) != config_digest(make_config(LEAST))


@pytest.mark.parametrize(("key", "value"), NO_CHANGES)
def test_what_does_not_change_the_result_does_not_change_the_digest(key: str, value: Any) -> None:
    assert config_digest(make_config(put(LEAST, key, value))) == config_digest(make_config(LEAST))


def test_every_setting_is_known_to_change_the_digest_or_not() -> None:
    """A setting added later must be put into one of the two lists of this file."""
    said = {key for key, _ in CHANGES + NO_CHANGES}
    elsewhere = ("kind", "address", "hosts", "class_", "options", "adapt", "walltime")
    said |= {f"cluster.{name}" for name in elsewhere}  # by way of 'cluster'
    said |= {"reference.index", "reference.path", "output.shards"}  # their own tests, below
    said |= {"valid.frames.allow_small"}
    said |= {"input.options", "output.options"}  # of addresses: test_object_stores
    settings = make_config(LEAST).model_dump()
    settings["valid"] = {
        f"frames.{key}": value for key, value in settings["valid"]["frames"].items()
    } | {"reference": None}
    known = {f"{section}.{key}" for section, inner in settings.items() for key in inner or ()}
    assert known <= said


def test_another_image_is_another_result() -> None:
    digests = {
        config_digest(make_config({**LEAST, "reference": reference}))
        for reference in (
            {"kind": "index", "index": 3},
            {"kind": "index", "index": 4},
            {"kind": "image", "path": "/a.tif"},
            {"kind": "image", "path": "/b.tif"},
        )
    }
    assert len(digests) == 4


def test_runs_that_an_older_version_began_can_be_finished() -> None:
    """The digest that version 0.1.0 made, before there were the sections correction and exclude."""
    older = make_config({"input": {"path": "/a"}, "output": {"path": "/b"}})
    assert config_digest(older) == "7472c3c2cf9e59c9"
    written_out = make_config(
        {
            "input": {"path": "/a"},
            "output": {"path": "/b"},
            "correction": {"dark": None},
            "exclude": {"frames": [], "values": {}},
        }
    )
    assert config_digest(written_out) == "7472c3c2cf9e59c9"
    assert not {"correction", "exclude"} & set(result_settings(older))


def test_the_order_in_which_frames_are_left_out_is_no_other_result() -> None:
    one, other = (
        make_config({**LEAST, "exclude": rules, "correction": {"defects": defects}})
        for rules, defects in (
            ({"frames": [5, "7-9", 5], "values": {"scan": [2, 1]}}, [[1, 2], [0, 3]]),
            ({"frames": ["7 - 9", "5"], "values": {"scan": ["1", 2.0]}}, [[0, 3], [1, 2], [1, 2]]),
        )
    )
    assert config_digest(one) == config_digest(other)


def test_the_digest_does_not_change_between_processes_or_versions() -> None:
    """Written down once: a run that was begun must be finished by a later version."""
    settings = {**LEAST, "valid": {"frames": {"exclude": [{"circle": [1, "50%", 2.5]}]}}}
    canonical = json.dumps(
        result_settings(make_config(settings)), sort_keys=True, separators=(",", ":")
    )
    program = (
        "import sys, json, hashlib; from stillstack.config import *;"
        "c = make_config(json.loads(sys.argv[1]));"
        "print(config_digest(c), hashlib.sha256(sys.argv[2].encode()).hexdigest()[:16])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, json.dumps(settings), canonical],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert told[0] == told[1] == config_digest(make_config(settings))


def test_the_frames_valid_pixels_written_again_for_the_reference_are_the_same() -> None:
    rules = {"exclude": [{"rectangle": [0, 5, 0, 5]}]}
    once = make_config({**LEAST, "valid": {"frames": rules}})
    twice = make_config({**LEAST, "valid": {"frames": rules, "reference": rules}})
    assert config_digest(once) == config_digest(twice)


def test_configs_are_values() -> None:
    config = make_config(LEAST)
    assert config == make_config(copy.deepcopy(LEAST))
    assert hash(config) == hash(make_config(LEAST))
    with pytest.raises(ValueError, match="frozen"):
        setattr(config.registration, "max_shift_px", 3)  # noqa: B010 - a type checker refuses it


def test_a_misspelt_key_is_named_with_its_line_and_the_right_one(tmp_path: Path) -> None:
    text = "input: {path: a}\noutput: {path: b}\nregistration:\n  maxshift_px: 3\n"
    told = faults(text, tmp_path)
    assert "'maxshift_px' in registration (did you mean 'max_shift_px'?) (line 4)" in told


def test_a_key_in_the_wrong_section_is_sent_to_the_right_one(tmp_path: Path) -> None:
    told = faults("input: {path: a}\noutput: {path: b, canvas: common}\n", tmp_path)
    assert "did you mean 'alignment.canvas'?" in told


def test_all_faults_are_told_at_once_in_plain_words(tmp_path: Path) -> None:
    text = """
input:
  variabel: counts
output:
  path: b
  block_frames: many
registration:
  min_overlap: 3
  max_shift_px: yes
valid:
  frames:
    exclude:
      - rectangle: [0, 1, 2]
      - rectangle: [9, 3, 0, 1]
      - circel: [1, 2, 3]
      - circle: [1, 2, "3 percent"]
reference:
  kind: index
clustre: {}
"""
    told = faults(text, tmp_path)
    for words in (
        "'path' is missing in input (line 2)",
        "'variabel' in input (did you mean 'variable'?) (line 3)",
        "output.block_frames is 'many', but should be a valid integer or should be 'auto' (line 6)",
        "registration.min_overlap is 3, but should be less than or equal to 1 (line 8)",
        "registration.max_shift_px is True, but should not be true or false",
        "valid.frames.exclude[0].rectangle has too few values (line 13)",
        "0 <= y0 < y1, not y0 = 9.0, y1 = 3.0 (line 14)",
        "'circel' in valid.frames.exclude[2] (did you mean 'circle'?) (line 15)",
        "should look like '61%' (line 16)",
        "kind: index needs index",
        "'clustre' in the top level (did you mean 'cluster'?) (line 19)",
    ):
        assert words in told, words
    assert "11 faults" in told
    assert "pydantic" not in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"reference": {"kind": "image"}}, "kind: image needs path"),
        ({"reference": {"index": 3}}, "index belongs to kind: index, but kind is mean"),
        ({"reference": {"start": 9, "stop": 9}}, "stop (9) should be greater than start (9)"),
        ({"reference": {"kind": "index", "index": -1}}, "greater than or equal to 0"),
        ({"cluster": {"kind": "address"}}, "kind: address needs address"),
        ({"cluster": {"address": "tcp://a:1"}}, "address belongs to kind: address"),
        ({"cluster": {"address": "a:1", "kind": "address"}}, "should look like 'tcp://"),
        ({"cluster": {"memory_limit": "4 gigabytes"}}, "should look like '4GiB'"),
        (
            {"cluster": {"kind": "address", "address": "tcp://a:1", "workers": 2}},
            "are set where the cluster is started",
        ),
        ({"valid": {"frames": {"below": 9, "above": 3}}}, "leave no valid value"),
        ({"valid": {"frames": {"include": []}}}, "leaves no pixel"),
        ({"valid": {"frames": {"exclude": [{}]}}}, "not nothing"),
        (
            {"valid": {"frames": {"exclude": [{"rectangle": [0, 1, 0, 1], "circle": [1, 1, 1]}]}}},
            "not rectangle and circle",
        ),
        ({"valid": {"frames": {"exclude": [{"circle": [5, 5, 0]}]}}}, "radius above 0"),
        ({"valid": {"frames": {"exclude": [{"rectangle": [-4, 3, 0, 1]}]}}}, "0 <= y0"),
        ({"valid": {"frames": {"exclude": [{"polygon": [[0, 0], [1, 1]]}]}}}, "at least 3 items"),
        ({"registration": {"gain": float("inf")}}, "finite number"),
        ({"registration": {"gain": 0}}, "greater than 0"),
        ({"registration": []}, "section of its own"),
        ({"alignment": {"interpolation": "cubic"}}, "'bspline', 'catmull-rom'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make_config({**LEAST, **section})
    assert words in str(caught.value)
    assert "one fault" in str(caught.value)


def test_frames_of_a_task_change_the_result_only_where_they_are_one_object() -> None:
    plain, sharded = LEAST, put(LEAST, "output.shards", True)
    for settings, same in ((plain, True), (sharded, False)):
        few, many = (put(settings, "output.block_frames", frames) for frames in (8, 16))
        assert (config_digest(make_config(few)) == config_digest(make_config(many))) == same
    written_out = put(plain, "output.shards", False)
    assert config_digest(make_config(plain)) == config_digest(make_config(written_out))
    assert config_digest(make_config(plain)) != config_digest(make_config(sharded))


def test_blocks_are_whole_chunks() -> None:
    with pytest.raises(InputError, match=r"block_frames \(10\) should be a multiple of"):
        make_config(put(put(LEAST, "output.block_frames", 10), "output.chunk_frames", 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input: {path: a\noutput:", "not YAML in line 2"),
        ("input:\n\tpath: a\n", "not YAML in line 2, column 1"),
        ("", "holds nothing where sections are expected"),
        ("- a\n", "holds a list where"),
        ("input: {path: a}\noutput: {path: b}\ninput: {path: c}\n", "twice: 'input' (line 3)"),
        ("input:\n  path: a\n  path: b\noutput: {path: b}\n", "twice: 'path' (line 3)"),
    ],
)
def test_a_file_that_is_no_config_is_refused(text: str, words: str, tmp_path: Path) -> None:
    assert words in faults(text, tmp_path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"input: {path: \xe4}")
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_relative_paths_are_relative_to_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experiment" / "configs"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(
        "input: {path: ../frames/*.tif}\noutput: {path: s3://bucket/out}\n"
        "valid: {frames: {image: valid.tif}}\nreference: {kind: image, path: /abs/r.tif}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("experiment/configs/run.yaml"))
    assert config.input.path == str(tmp_path / "experiment" / "frames" / "*.tif")
    assert config.output.path == "s3://bucket/out"
    assert config.valid.frames.image == str(folder / "valid.tif")
    assert config.reference.path == "/abs/r.tif"


def test_overrides_replace_settings_and_their_paths_are_where_they_were_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c").mkdir()
    path = tmp_path / "c" / "run.yaml"
    path.write_text("input: {path: a}\noutput: {path: b}\ncluster:\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(
        path,
        [
            "registration.max_shift_px=48",
            "output.path=out.zarr",
            "cluster.workers=2",
            "valid.frames.equal=[1, 2]",
            "reference.kind=first",
        ],
    )
    assert config.registration.max_shift_px == 48
    assert config.output.path == str(tmp_path / "out.zarr")
    assert config.input.path == str(tmp_path / "c" / "a")
    assert config.valid.frames.equal == (1.0, 2.0)
    assert (config.cluster.workers, config.reference.kind) == (2, "first")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("registration.max_shift=4", "did you mean 'max_shift_px'?) (set on the command line)"),
        ("max_shift_px", "Write section.key=value"),
        ("=4", "Write section.key=value"),
        ("output.path.x=4", "which holds text"),
        ("output.codec=[", "is not YAML"),
    ],
)
def test_wrong_overrides_are_refused(override: str, words: str, tmp_path: Path) -> None:
    text = "input: {path: a}\noutput: {path: b}\n"
    assert words in faults(text, tmp_path, (override,))


def test_an_image_that_was_named_is_not_refined_unless_asked_for() -> None:
    def refine(**reference: Any) -> int | str:
        return make_config({**LEAST, "reference": reference}).reference.refine

    assert [refine(), refine(kind="median"), refine(kind="first")] == [1, 1, 0]
    assert [refine(kind="first", refine=2), refine(kind="image", path="/a.tif")] == [2, 0]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: str(path.name))
def test_configs_that_come_with_the_program_load_and_fit_the_schema(path: Path) -> None:
    config = load_config(path)
    assert isinstance(config, RunConfig)
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=stillstack.schema.json\n")
    jsonschema.validate(yaml.safe_load(text), json_schema())
    jsonschema.validate(yaml.safe_load(to_yaml(config)), json_schema())


def test_there_are_configs_for_the_demo_chromium_and_each_kind_of_cluster() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= {
        "demo",
        "local",
        "cluster",
        "slurm",
        "ssh",
        "chromium",
    }


def test_the_schema_file_is_up_to_date() -> None:
    written = json.loads((CONFIGS / "stillstack.schema.json").read_text())
    assert written == json_schema(), (
        "The models have changed. Write the schema again: python -c 'import json; "
        "from stillstack.config import json_schema; print(json.dumps(json_schema(), indent=2))' "
        "> configs/stillstack.schema.json"
    )


def test_the_schema_describes_every_setting_and_refuses_unknown_ones() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for model in [schema, *schema["$defs"].values()]:
        assert model["additionalProperties"] is False
        assert model["description"]
        for name, setting in model["properties"].items():
            assert setting.get("description") or "$ref" in setting, name
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(put(LEAST, "registration.maxshift_px", 3), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(put(LEAST, "valid.frames.exclude", [{}]), schema)


def test_reading_a_config_imports_nothing_heavy() -> None:
    program = (
        "import sys, stillstack.config;"
        "print([m for m in ('numpy', 'dask', 'zarr', 'numba', 'matplotlib') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert told.stdout.strip() == b"[]"
