"""The process around the command line: what becomes of errors, and the exit status."""

import io
import os
import sys
from collections.abc import Sequence

import noisylabels
from noisylabels.errors import NoisyLabelsError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        words: The arguments; those of the process by default.

    Returns:
        The exit status: 0; 1 where runs of a study failed; 2 for an error that has a name; 130 or
        143 when SIGINT or SIGTERM asked to stop.
    """
    rest = list(sys.argv[1:] if words is None else words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console that has no "±" is no reason to show nothing.
            stream.reconfigure(errors="replace")
    if "--version" in rest:
        print(f"noisylabels {noisylabels.__version__}")
        return 0
    debug = "--debug" in rest
    try:
        from noisylabels import cli

        cli.run([word for word in rest if word != "--debug"])
    except NoisyLabelsError as error:
        if debug:
            raise
        if text := " ".join(str(error).split()):
            print(f"noisylabels: {text}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough; nor may the exit flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        if debug:
            raise
        print("noisylabels: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
