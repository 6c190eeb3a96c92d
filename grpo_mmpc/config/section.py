"""The two kinds of sections.

Closed ones of our own, and those that pass a library's options through.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Section(BaseModel):
    """A section with keys of our own: strict and closed, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PassThroughSection(Section):
    """A section whose keys are a library's own options.

    The options that recipes set are typed fields; every other key is passed on under its own name
    and checked against the installed library. What a recipe leaves out is left to the library, so
    only given keys are written to ``config.yaml`` and handed over.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    always: ClassVar[tuple[str, ...]] = ()
    """Fields that are written and handed over even where they are our default."""

    @model_serializer(mode="wrap")
    def _only_given(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kept = {*self.model_fields_set, *self.always}
        return {name: value for name, value in serialise(self).items() if name in kept}

    def options(self) -> dict[str, Any]:
        """Return the given options, as keyword arguments of the library."""
        return self.model_dump()
