"""The one base of errors that are shown to a person as they are."""


class UserError(Exception):
    """Something a person asked for did not happen.

    `sentence` names the object and the reason; `remedy` says what to do about it ("" when nothing helps).
    `str(error)` is both, so that printing the error is all a caller has to do.
    """

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(f"{sentence} {remedy}".rstrip())
        self.sentence = sentence
        self.remedy = remedy
