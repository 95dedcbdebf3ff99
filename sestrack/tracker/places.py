"""Where an address is: a country without any set-up, and finer with a database of one's own.

Countries come from `iptocc`, the registries' data inside the package.  With an MMDB (any with
`country.iso_code`, as GeoLite2, DB-IP or IPinfo make them) they come from there, and regions
too, where it has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sestrack.errors import BadInput
from sestrack.files import reading

if TYPE_CHECKING:
    import maxminddb

Place = tuple[str, str]
"""Country (ISO 3166-1 alpha-2) and region (ISO 3166-2 or a name); "" if unknown."""


class Places:
    """Looks addresses up."""

    def __init__(self, mmdb: str = "") -> None:
        """Open the database, if one is named.  Raises `BadInput`, and what `files.reading` does."""
        import iptocc

        self._country_of = iptocc.country_code
        self._reader: maxminddb.Reader | None = None
        if mmdb:
            import maxminddb

            # its C part says of a file that may not be read that it is no database
            with reading(mmdb):
                pass
            try:
                self._reader = maxminddb.open_database(mmdb)
            except (maxminddb.InvalidDatabaseError, OSError) as error:
                msg = f"{mmdb} is no database of places (MMDB): {error}"
                raise BadInput(msg, "--mmdb GeoLite2-City.mmdb") from None

    def find(self, ip: str) -> Place:
        """Return the place of an address; a database that does not know it is helped out."""
        if self._reader is not None and ip:
            try:
                record = self._reader.get(ip)
            except ValueError:
                record = None
            place = _place(record) if isinstance(record, dict) else ("", "")
            if place[0]:
                return place
        return self._country_of(ip) or "", ""


def _place(record: dict[str, Any]) -> Place:
    country = record.get("country") or record.get("registered_country") or ""
    if isinstance(country, dict):
        country = country.get("iso_code") or ""
    divisions = record.get("subdivisions")
    region = divisions[0] if isinstance(divisions, list) and divisions else record.get("region", "")
    if isinstance(region, dict):
        region = region.get("iso_code") or region.get("names", {}).get("en") or ""
    return str(country), str(region)
