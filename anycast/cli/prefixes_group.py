"""`anycast prefixes …`: its commands, each from the module that has it."""

from __future__ import annotations

from anycast.cli import prefixes_dns, prefixes_export, prefixes_import, prefixes_leases
from anycast.cli.prefixes import app

__all__ = ["app"]

app.command("forecast")(prefixes_leases.forecast)
app.command("export")(prefixes_export.export)
app.command("import")(prefixes_import.import_)
app.add_typer(prefixes_dns.app, name="dns")
