"""What requests and answers are checked for."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from starloom.site.base import Count, Name, Noun, Positive


class WordList(Noun):
    """Phrases that a request or an answer must not hold."""

    name: Name
    words: list[Annotated[str, Field(min_length=1, max_length=256)]] = []
    file: str | None = None
    """One phrase a line, UTF-8, `#` begins a comment line; relative to the site file. Or
    `package:prompt-injection`, well-worn phrases of prompt injections."""
    action: Literal["block", "mask"] = "block"
    where: list[Literal["input", "output"]] = ["input", "output"]

    @model_validator(mode="after")
    def _has_phrases(self) -> Self:
        if not self.words and self.file is None:
            raise ValueError("a word list needs `words` or `file`")
        return self


class Normalise(Noun):
    """Which evasions are undone for word lists, besides case, width and what is invisible."""

    homoglyphs: bool = True
    """Letters of other alphabets that look like Latin ones."""
    spacing: bool = True
    """Blanks and marks between the letters of a word."""
    leet: bool = True
    """Digits and signs that stand for letters."""
    han: bool = True
    """Common traditional characters are read as simplified ones."""


PatternKind = Literal[
    "secrets",
    "personal",
    "assigned_secret",
    "aws_access_key",
    "bearer_token",
    "github_token",
    "gitlab_token",
    "google_key",
    "hugging_face_token",
    "jwt",
    "model_key",
    "npm_token",
    "private_key",
    "slack_token",
    "stripe_key",
    "cn_resident_id",
    "credit_card",
    "email",
    "iban",
    "ip_address",
    "phone",
    "us_ssn",
]
"""Two families, and the kinds that they consist of."""


class PatternRule(Noun):
    """Secrets or personal data that a request or an answer must not hold."""

    name: Name
    kinds: list[PatternKind] = Field(min_length=1)
    action: Literal["block", "mask"] = "mask"
    where: list[Literal["input", "output"]] = ["input", "output"]


class SafetyModel(Noun):
    """A classifier that sees the texts of every request: an endpoint, or a file of weights."""

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Base address of a server with OpenAI's `/moderations`, with `/v1` where the server has it."""
    key_env: str | None = None
    """Environment variable that holds the server's key."""
    model: str | None = None
    """The model's name there."""
    images: bool = False
    """Whether the server takes images, too."""
    file: str | None = None
    """Weights made by `python -m starloom.serve.guard.train`; relative to the site file."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """By category, where it differs. 1 switches a category off."""
    timeout_s: Positive = 2.0
    on_failure: Literal["pass", "refuse"] = "refuse"
    """What becomes of a request that the model could not see. Either is counted and audited."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.url is None) == (self.file is None):
            raise ValueError("a safety model needs either `url` or `file`")
        return self


class Media(Noun):
    """What image, audio and video parts of messages must be."""

    unchecked: Literal["pass", "refuse"] = "refuse"
    """What becomes of parts that cannot be checked: addresses elsewhere (never fetched), file ids,
    types that are not known, sizes that the header does not tell."""
    types: list[str] = [
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "audio/wav",
        "audio/mpeg",
        "audio/flac",
        "audio/ogg",
        "video/mp4",
        "video/webm",
    ]
    max_mib: Positive = 16.0
    max_megapixels: Positive = 32.0
    """Of all frames of an image together, or one frame of a video; before anything is decoded."""
    max_s: Positive = 600.0
    """Duration of audio, video and animations."""
    max_parts: Count = 32
    sha256_file: str | None = None
    """Hashes of refused files in hex, one a line; relative to the site file."""
    dhash_file: str | None = None
    """Difference hashes of refused images, 16 hex digits a line; needs the extra `media`."""
    dhash_bits: Annotated[int, Field(ge=0, le=32)] = 6
    """Images whose hash differs in at most so many of 64 bits are refused."""
    frames: Annotated[int, Field(ge=1, le=64)] = 4
    """Frames of an animation that are hashed, evenly spread."""

    @model_validator(mode="after")
    def _types_are_media(self) -> Self:
        for name in self.types:
            if name.partition("/")[0] not in ("image", "audio", "video"):
                raise ValueError(f"{name!r} is no type of image, audio or video")
        return self


class Guard(Noun):
    """What goes into models and what comes out. Nothing is looked for by default."""

    lists: list[WordList] = []
    normalise: Normalise = Normalise()
    patterns: list[PatternRule] = []
    model: SafetyModel | None = None
    media: Media | None = None

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.lists or self.patterns or self.model or self.media)
