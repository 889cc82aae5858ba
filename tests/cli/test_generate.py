"""Options of the command line, made of dataclasses."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from fastcam._options import check, option
from fastcam.cli.generate import flag, generated


@dataclass(frozen=True)
class Settings:
    top_k: int = option(1, "boxes for so many classes", least=1)
    target_layers: tuple[str, ...] | Any = option(None, "layers by dotted name", flags="--target-layer")
    threshold: float | None = option(None, "fraction of the map's range", least=0, below=1)
    mode: Literal["bilinear", "bicubic"] = option("bilinear", "upsampling of the map")
    mean: tuple[float, float, float] = option((0.1, 0.2, 0.3), "mean of RGB")
    blend: tuple[float, float] | None = option(None, "of map and picture")
    milestones: tuple[int, ...] = option((), "epochs")
    last: bool = option(True, "memory format", flags="--last/--first", decides=False)
    relu: bool | None = option(None, "clip the map")
    maps: bool = option(False, "keep `map.npy` of `target_layers`, as `blend` says")
    layer: Any = option(None, "a module", cli=False)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Where:
    engine: Literal["local", "ray"] = option("local", "who computes")


def command(*words: str):
    given = {}
    app = typer.Typer()

    @app.command()
    @generated
    def run(path: str, settings: Settings, values: Annotated[dict[str, Any], Where], device: str = "cpu") -> None:
        """Run it."""
        given.update(settings=settings, values=values, path=path, device=device)

    return CliRunner().invoke(app, ["picture", *words], env={"COLUMNS": "200"}), given


def test_a_command_gets_records_and_values_of_what_was_given():
    words = ["--top-k", "1", "--mean", "0.5", "--target-layer", "a", "--target-layer", "b,c", "--first", "--no-relu"]
    words += ["--blend", "0.7,0.5", "--milestones", "1,2,3"]
    result, given = command(*words, "--mode", "bicubic", "--threshold", "0.5", "--engine", "ray", "--maps")
    assert result.exit_code == 0, result.output
    assert given.pop("settings") == Settings(
        target_layers=("a", "b", "c"),
        threshold=0.5,
        mode="bicubic",
        mean=(0.5, 0.5, 0.5),
        blend=(0.7, 0.5),
        milestones=(1, 2, 3),
        last=False,
        relu=False,
        maps=True,
    )
    assert given == {"path": "picture", "device": "cpu", "values": {"engine": "ray"}}
    assert command()[1] == {"path": "picture", "device": "cpu", "values": {}, "settings": Settings()}


def test_help_of_a_command_has_each_option_once():
    text = command("--help")[0].output
    for name in ("--top-k", "--target-layer", "--threshold", "--mode", "--mean", "--last", "--relu", "--device"):
        assert text.count(f"{name} ") == 1, name
    assert "--layer" not in text.replace("--target-layer", "")
    assert "default: bilinear" in text
    assert "--maps" in text
    assert "--no-maps" not in text


def test_help_names_other_options_as_one_writes_them():
    assert "Keep map.npy of --target-layer, as --blend says." in command("--help")[0].output


@pytest.mark.parametrize("words", [["--mode", "area"], ["--top-k", "0"], ["--top-k", "x"], ["--engine", "here"]])
def test_wrong_values_are_wrong_usage(words):
    assert command(*words)[0].exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mean", "1,2"), "--mean must be one number or three with commas between, such as 0.5 or 0.4,0.5,0.6"),
        (("--blend", "1"), "--blend must be two numbers with a comma between, such as 0.7,0.5; got '1'"),
        (("--milestones", "1,x"), "--milestones must be whole numbers with commas, such as 60,120,160; got '1,x'"),
        (("--threshold", "1"), "`threshold` must be a finite number of at least 0 and below 1, got 1.0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(words, message):
    assert message in str(command(*words)[0].exception)


def test_how_an_option_is_written():
    known = Settings.__dataclass_fields__
    assert flag("top_k", known["top_k"].metadata["option"]) == "--top-k"
    assert flag("last", known["last"].metadata["option"]) == "--last"
