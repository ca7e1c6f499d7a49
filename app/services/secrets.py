"""Take what must stay secret out of a text that is about to be given to somebody."""

import re

MASK = "********"

_NAMES = r"[\w.-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|credential|authorization|cookie)[\w.-]*"
_PATTERNS = (
    # Private keys, whole.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
    # scheme://user:password@host
    (re.compile(r"(?<=://)[^/\s@\"']+(?=@)"), MASK),
    # HTTP authentication.
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"(X-Registry-Auth\"?\s*[:=]\s*)\S+", re.IGNORECASE), rf"\1{MASK}"),
    # "name": "value" of JSON, then name=value and name: value.
    (re.compile(rf"(\"{_NAMES}\"\s*:\s*)\"(?:[^\"\\]|\\.)*\"", re.IGNORECASE), rf'\1"{MASK}"'),
    (re.compile(rf"(\b{_NAMES}\s*[=:]\s*)(?![\s\"{{\[])[^\s,;\"]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(\"auth\"\s*:\s*)\"[^\"]*\""), rf'\1"{MASK}"'),
)
# A container's environment in JSON: the names may be seen, the values not.
_ENVIRONMENT = re.compile(r"(\"Env\"\s*:\s*\[)(.*?)(\])", re.DOTALL | re.IGNORECASE)
_VARIABLE = re.compile(r"\"([^\"=\\]+)=(?:[^\"\\]|\\.)*\"")


def masked(text: str) -> str:
    """The text without passwords, tokens, private keys and values of environments."""
    text = _ENVIRONMENT.sub(lambda match: match[1] + _VARIABLE.sub(rf'"\1={MASK}"', match[2]) + match[3], text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
