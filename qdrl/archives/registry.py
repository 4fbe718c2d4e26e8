"""Kinds of archives by name. To add one, add its settings class to the table; `build` of that class makes the archive.

`archive.kind = "package.module:Class"` names a settings class of a user's own, see `ArchiveSettings`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qdrl.archives.settings import ArchiveRequest, ArchiveSettings, CvtSettings, GridSettings, NoveltySettings
from qdrl.errors import UserError
from qdrl.naming import is_reference, load_reference, suggest
from qdrl.settings.tables import fitting

if TYPE_CHECKING:
    from qdrl.archives.base import AnyArchive

DEFAULT_KIND = "cvt"
ARCHIVES: Mapping[str, type[ArchiveSettings]] = {"cvt": CvtSettings, "grid": GridSettings, "novelty": NoveltySettings}
"""Settings of the built-in kinds by name."""


def archive_settings(kind: str) -> type[ArchiveSettings]:
    """Return the settings class of a kind.

    Args:
        kind: a name of `ARCHIVES`, or a reference `package.module:Class`, which is imported.

    Raises:
        UserError: there is no such kind, or the reference does not lead to a subclass of `ArchiveSettings`.
    """
    if kind in ARCHIVES:
        return ARCHIVES[kind]
    if not is_reference(kind):
        raise UserError(f"archive.kind: no archive '{kind}'{suggest(kind, ARCHIVES)}")
    found = load_reference(kind)
    if not (isinstance(found, type) and issubclass(found, ArchiveSettings)):
        raise UserError(f"archive.kind: '{kind}' must be a subclass of qdrl.archives.settings.ArchiveSettings")
    return found


def archive_kind(table: Mapping[str, Any]) -> str:
    """Return the kind that a table `[archive]` states; otherwise the one built-in kind that has all its keys.

    Args:
        table: the table as TOML reads it.
    """
    return str(table["kind"]) if "kind" in table else fitting(ARCHIVES, table, DEFAULT_KIND)


def refuse_keys_of_another_kind(table: Mapping[str, Any], kind: str) -> None:
    """Check that no key of a table `[archive]` belongs to another built-in kind.

    Args:
        table: the table as TOML reads it.
        kind: its kind.

    Raises:
        UserError: a key belongs to another kind, which the message names.
    """
    own = archive_settings(kind).model_fields
    for key in table:
        others = [name for name, model in ARCHIVES.items() if key in model.model_fields]
        if others and key not in own:
            raise UserError(
                f"unknown key 'archive.{key}' in kind '{kind}'; it needs archive.kind = '{others[0]}';"
                f" without it, '{kind}' takes {', '.join(own)}"
            )


def build_archive(settings: ArchiveSettings, request: ArchiveRequest) -> "AnyArchive":
    """Return the empty archive that settings describe.

    Raises:
        UserError: the settings do not fit the request, its genomes do not fit into the device's memory, or a user's
            archive is of a kind that files cannot describe.
    """
    from qdrl.archives.layout import KINDS  # imports h5py, which reading settings does without

    archive = settings.build(request)
    if archive.geometry.kind not in KINDS:
        known = ", ".join(f"'{kind}'" for kind in KINDS)
        raise UserError(
            f"archive.kind: '{settings.kind}' builds an archive of kind '{archive.geometry.kind}'; files store {known}"
        )
    return archive
