"""What can go wrong with a prompt, told apart by whose fault it is."""

from __future__ import annotations

import json


class PromptRefused(ValueError):
    """The server did not queue a prompt; the text is the server's, a line for each problem."""


class NodeFailed(RuntimeError):
    """A node failed, or somebody interrupted the run; ``report`` is the server's own.

    It has ``node_id``, ``node_type``, ``exception_type``, ``exception_message``, ``traceback``; of
    an interrupted run the first two.
    """

    def __init__(self, report: dict):
        super().__init__(f"{report.get('node_type')}: {report['exception_message']}")
        self.report = report

    def __reduce__(self):  # by default the text would be the argument
        return type(self), (self.report,)


class ServerGone(ConnectionError):
    """The server did not answer for as long as the client was told to wait."""


class PromptLost(ServerGone):
    """The server answers, but does not know the prompt: it was restarted, or its queue cleared."""


class ServerError(RuntimeError):
    """The server, or a proxy before it, answered with an error that is not about the prompt."""

    def __init__(self, status: int, where: str, text: str):
        super().__init__(f"{where} answered with HTTP status {status}: {text.strip()[:500]}")
        self.status = status
        self.where = where
        self.text = text

    def __reduce__(self):
        return type(self), (self.status, self.where, self.text)


def refusal(answer: str) -> str:
    """Return the server's words about a prompt that it refused, one line for each problem."""
    try:
        report = json.loads(answer)
        lines = [report["error"]["message"], *node_problems(report["node_errors"])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer  # another form of report: as it is
    return "\n".join(lines)


def node_problems(node_errors: dict) -> list[str]:
    """Return a line for each problem in the server's ``node_errors``."""
    return [
        f"{found['class_type']} (node {node}): {error['message']}: {error['details']}"
        for node, found in (node_errors or {}).items()
        for error in found["errors"]
    ]
