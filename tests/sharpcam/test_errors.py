from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from sharpcam import errors
from sharpcam.errors import SharpCamError, validation_line

KINDS = {
    errors.ConfigError: ValueError,
    errors.DeviceNotFound: FileNotFoundError,
    errors.DeviceBusy: BlockingIOError,
    errors.DeviceLost: ConnectionResetError,
    errors.DeviceDenied: PermissionError,
    errors.FormatMismatch: ValueError,
    errors.MediaError: OSError,
    errors.ModelError: ValueError,
    errors.ControlError: ConnectionError,
    errors.ProviderUnavailable: RuntimeError,
}


def test_every_error_is_listed() -> None:
    assert set(SharpCamError.__subclasses__()) >= KINDS.keys()


@pytest.mark.parametrize(("kind", "builtin"), KINDS.items())
def test_each_is_ours_and_the_fitting_builtin(kind: type[SharpCamError], builtin: type[Exception]) -> None:
    for caught in (SharpCamError, builtin):
        with pytest.raises(caught) as info:
            raise kind("camera 3 is gone", "plug it in")
        assert str(info.value) == "camera 3 is gone"
        assert info.value.hint == "plug it in"
    assert kind("x").hint == ""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int = 0

    @field_validator("number")
    @classmethod
    def _not_seven(cls, value: int) -> int:
        if value == 7:
            raise ValueError("seven is not allowed")
        return value


class Outer(BaseModel):
    inner: Inner


@pytest.mark.parametrize(
    ("inner", "line"),
    [
        ({"number": "x"}, "inner.number: input should be a valid integer"),
        ({"nmber": 1}, "inner.nmber: this key is not known"),
        ({"number": 7}, "inner.number: seven is not allowed"),
        ({"nmber": 1, "number": 7}, "inner.number: seven is not allowed (and 1 more)"),
    ],
)
def test_validation_in_one_line(inner: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": inner})
    assert validation_line(caught.value.errors()).startswith(line)
