"""The errors that a script can answer, and what each tells it."""

from allocpolicy import (
    Change,
    ConfigError,
    DestinationExists,
    Error,
    ImageError,
    InvalidRequest,
    NotEnoughSpace,
    Order,
    Report,
    Unsupported,
    apply,
    load_policy,
    provision,
    resize,
)

SIZE = 4 << 20  # bytes


def made(name: str, *, strategy: str = "space") -> Report | None:
    """Make a disk that is reserved where that can be; None: there is one."""
    chosen = {"allocpolicy:strategy": strategy}
    order = Order(destination=name, virtual_size=SIZE, format="raw", extra_specs=chosen)
    try:
        return provision(order)
    except DestinationExists as error:
        print(f"{error.path} is left as it is")
        return None
    except Unsupported:  # this storage has no fallocate
        return made(name, strategy="none")
    except NotEnoughSpace as error:
        raise SystemExit(f"free {error.needed - error.free} bytes first") from error


assert made("db.raw") is not None
assert made("db.raw") is None
try:
    apply(Change(disk="gone.raw", format="raw"))
except ImageError as error:
    assert error.path.name == "gone.raw"
try:
    resize(Change(disk="db.raw", format="raw", virtual_size=SIZE // 2))
except InvalidRequest as error:
    assert "shrinking" in str(error)
try:
    load_policy(config_files="gone.conf")
except ConfigError as error:
    assert "gone.conf" in str(error)
try:
    Order(destination="db2.raw", virtual_size="4 apples")
except Error as error:  # the root of all: one line, and a command's exit status
    assert (len(str(error).splitlines()), error.exit_status) == (1, 2)
