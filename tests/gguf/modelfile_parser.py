"""Modelfiles as Ollama reads them: the states of https://github.com/ollama/ollama/blob/main/parser/parser.go, written
anew. Commands are lower case, and `FROM` is `model`, as there."""

from __future__ import annotations

COMMANDS = "from license template system adapter draft renderer parser parameter message requires".split()


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """(command, argument) in order; a PARAMETER's command is its name. Raises ValueError where Ollama would."""
    commands: list[tuple[str, str]] = []
    state, buffer, name, role = "nothing", "", "", ""

    def end_of_value(letter: str) -> bool:
        nonlocal buffer, role
        value = unquoted(buffer.strip())
        if value is None or letter in (" ", "\t"):
            buffer += letter
            return False
        commands.append((name, f"{role}: {value}" if role else value))
        role, buffer = "", ""
        return True

    for letter in text:
        if state == "nothing":
            if letter == "#":
                state = "comment"
            elif letter not in " \t\r\n":
                state, buffer = "name", letter
        elif state == "comment":
            state = "nothing" if letter in "\r\n" else "comment"
        elif state == "name":
            if letter.isascii() and letter.isalpha():
                buffer += letter
            elif letter in " \t":
                command = buffer.lower()
                if command not in COMMANDS:
                    raise ValueError(f"{command!r} is no command")
                name = "model" if command == "from" else command
                state = {"parameter": "parameter", "message": "role"}.get(command, "value")
                buffer = ""
            else:
                raise ValueError(f"{letter!r} in the name of a command")
        elif state in ("parameter", "role"):
            if letter in " \t":
                name, role = (buffer, role) if state == "parameter" else (name, buffer)
                if state == "role" and role not in ("system", "user", "assistant"):
                    raise ValueError(f"{role!r} is no role")
                state, buffer = "value", ""
            elif letter.isascii() and (
                letter.isalpha() or (state == "parameter" and (letter.isdigit() or letter == "_"))
            ):
                buffer += letter
            else:
                raise ValueError(f"{letter!r} in the name of a {state}")
        elif letter in " \t\r\n":
            state = "nothing" if end_of_value(letter) else "value"
        elif letter.isprintable():
            buffer += letter
    if state == "value":
        if unquoted(buffer.strip()) is None:
            raise ValueError("the end of a quotation is missing")
        end_of_value("\n")
    elif state not in ("nothing", "comment"):
        raise ValueError("ends within a command")
    if not any(command == "model" for command, _ in commands):
        raise ValueError("no FROM line")
    return commands


def unquoted(text: str) -> str | None:
    """None where the quotation goes on."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text
