"""Commands of `fastcam`, run within the test's process."""

from click.testing import Result
from typer.testing import CliRunner

from fastcam import cli


def run(*arguments: object) -> Result:
    """What it wrote and its exit code; an exception that is not its own is raised."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: object, code: int = 2) -> str:
    """What a run that must fail says: one line, no traceback."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("fastcam: ")
    assert result.stderr.count("\n") == 1
    return result.stderr
