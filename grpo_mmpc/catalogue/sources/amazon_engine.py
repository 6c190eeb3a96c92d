"""DuckDB over files of Amazon Reviews 2023: every record as JSON cells, in bounded memory.

The engine reads what is regular; each record that it cannot read, or reads otherwise than
:mod:`~grpo_mmpc.catalogue.sources.amazon_records` would, is left to that module.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_mmpc.catalogue.normalise import json_text
from grpo_mmpc.catalogue.sources.amazon_cells import quoted
from grpo_mmpc.catalogue.sources.amazon_items import (
    image_name,
    image_urls,
    plain_text,
    read_attributes,
    read_description,
)
from grpo_mmpc.catalogue.sources.amazon_records import csv_cells, form_of, unpacked_lines
from grpo_mmpc.errors import CatalogueError, first_line
from grpo_mmpc.utils.faults import full_disk
from grpo_mmpc.utils.hashing import number
from grpo_mmpc.utils.parquet import open_parquet

if TYPE_CHECKING:
    import duckdb
    import pyarrow

_MOST_THREADS, _MB_A_THREAD = 4, 125
"""What does not fit lies on disk: more memory would save little, more threads would need more."""
_MOST_MB = 2000
"""For a statement over very long texts: it takes 2,048 rows at once, whatever they hold."""
_TICK_S = 0.2
_ROW_GROUP = 122_880
"""Rows of a Parquet file that are written together."""
_T = TypeVar("_T")


@dataclass(slots=True, kw_only=True)
class Engine:
    """A database in bounded memory and in a folder that is gone afterwards."""

    connection: "duckdb.DuckDBPyConnection"
    folder: Path
    threads: int
    memory_mb: int
    tick: Callable[[], None]
    """Called several times a second while a statement runs."""
    cleaned: Counter[str] = field(default_factory=Counter)
    """Cells that were changed, by what was removed from them."""

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run statements and return the rows of the last; a signal stops them.

        One that runs out of memory is run again with twice as much, to a limit.
        """
        rows: list[tuple[Any, ...]] = []
        for one in self.connection.extract_statements(statement):
            rows = self._run_one(one)
        return rows

    def _run_one(self, statement: "duckdb.Statement") -> list[tuple[Any, ...]]:
        import duckdb  # heavy: imported on use

        memory_mb, cleaned = self.memory_mb, self.cleaned.copy()
        try:
            while True:
                try:
                    return self._watched(lambda: self.connection.execute(statement).fetchall())
                except duckdb.OutOfMemoryException:
                    if memory_mb >= _MOST_MB:
                        raise
                    memory_mb = min(2 * memory_mb, _MOST_MB)
                    self.connection.execute(f"SET memory_limit = '{memory_mb}MB'")
                    self.cleaned = cleaned.copy()  # its cells are counted again
        finally:
            if memory_mb != self.memory_mb:
                self.connection.execute(f"SET memory_limit = '{self.memory_mb}MB'")

    def _watched(self, work: Callable[[], _T]) -> _T:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            try:
                while True:
                    try:
                        return future.result(timeout=_TICK_S)
                    except TimeoutError:
                        if future.done():
                            raise
                        self.tick()
            except BaseException:
                self.connection.interrupt()
                raise

    def count(self, table: str) -> int:
        """Return the number of a table's rows."""
        [[number]] = self.run(f"SELECT count(*) FROM {table}")
        return int(number)

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Use one thread for a block: several would wait for each other's Python, at a cost.

        An error that leaves the block ends the build: nothing is asked of the database after it.
        """
        self.run("SET threads = 1")
        yield
        self.run(f"SET threads = {self.threads}")

    def by_key(self, table: str) -> str:
        """Return SQL that puts a table in the order of ``key``: nothing where it is in it already.

        It mostly is, as records are read in this order but for those that are left to Python.
        """
        [[in_order]] = self.run(
            f"SELECT coalesce(bool_and(key > before), true) FROM (SELECT key, lag(key) OVER () AS before FROM {table})"
        )
        return "" if in_order else "ORDER BY key"

    def insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a table, by the names of its columns."""
        import pyarrow as pa  # heavy: imported on use

        if rows:
            self.connection.register("appended", pa.Table.from_pylist(list(rows)))
            self.run(f"INSERT INTO {table} BY NAME FROM appended")
            self.connection.unregister("appended")

    def write_json_lines(self, query: str, *, to: Path) -> None:
        """Write the rows of a query into a file; each thread would hold tens of megabytes."""
        with self.one_thread():
            self.run(f"COPY ({query}) TO {quoted(str(to))} (FORMAT json)")

    def write_parquet(self, query: str, *, to: Path, repeated: Sequence[str]) -> int:
        """Write the rows of a query into a file; return how many.

        The same rows give the same bytes, which the engine's own writer does not promise: its row
        groups end where threads happened to. Columns ``repeated`` get a dictionary. The writer's
        memory is taken from the engine's.
        """

        def write() -> int:
            return _write_parquet(self.connection.sql(query).to_arrow_reader(_ROW_GROUP), to, repeated=repeated)

        with self.one_thread():
            self.run(f"SET memory_limit = '{self.memory_mb // 2}MB'")
            written = self._watched(write)
            self.run(f"SET memory_limit = '{self.memory_mb}MB'")
        return written

    def relation(self, file: Path, columns: Sequence[str], *, as_text: bool = False) -> str:
        """Return SQL for a file's records: ``row`` from 1, and cells as JSON text, null if unread.

        Args:
            file: JSON lines, Parquet or CSV.
            columns: Names of cells.
            as_text: Give a cell that is a text as it is, which costs less.

        Raises:
            duckdb.Error: The file is damaged; sometimes only when it is read.
        """
        content, packing = form_of(file)
        link = self.folder / f"input-{content}"  # no character of a name means anything to the engine
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
        name = quoted(str(link))
        if content == "parquet":
            known = _parquet_columns(file, columns)
            made = "{}" if as_text else "to_json({})"
            cells = ", ".join(f"{made.format(c) if c in known else 'NULL'}::VARCHAR AS {c}" for c in columns)
            return f"(SELECT file_row_number + 1 AS row, {cells} FROM read_parquet({name}, file_row_number=true))"
        if content == "csv":
            return self._csv(link, columns, packing, as_text=as_text)
        types = ", ".join(f"{c}: '{'VARCHAR' if as_text else 'JSON'}'" for c in columns)
        cells = ", ".join(f"{c}::VARCHAR AS {c}" for c in columns)
        return (
            f"(SELECT row_number() OVER () AS row, {cells} FROM read_json({name}, format='newline_delimited', "
            f"compression='{packing}', ignore_errors=true, columns={{{types}}}))"
        )

    def _csv(self, link: Path, columns: Sequence[str], packing: str, *, as_text: bool) -> str:
        """Split lines at commas; one with a quote or of another length has nulls only."""
        with unpacked_lines(link, packing) as lines:
            header = csv_cells(next(filter(bytes.strip, lines), b""))
        line = "CASE WHEN ends_with(line, chr(13)) THEN rtrim(line, chr(13)) ELSE line END"  # rtrim is slow
        cell = "nullif(c[{}], '')" if as_text else "to_json(nullif(c[{}], ''))::VARCHAR"
        cells = ", ".join(
            f"CASE WHEN len(c) = {len(header)} AND NOT contains(line, '\"') "
            f"THEN {cell.format(header.index(name) + 1)} END AS {name}"
            if name in header
            else f"NULL::VARCHAR AS {name}"
            for name in columns
        )
        return (
            f"(SELECT row_number() OVER () - 1 AS row, {cells} FROM (SELECT {line} AS line, "
            f"string_split({line}, ',') AS c FROM read_csv({quoted(str(link))}, "
            "columns={line: 'VARCHAR'}, auto_detect=false, header=false, delim='\x01', quote='', escape='', "
            f"compression='{packing}', max_line_size=1048576) WHERE trim(line) != '') QUALIFY row > 0)"
        )


def _parquet_columns(file: Path, columns: Sequence[str]) -> set[str]:
    """Return the columns of a Parquet file, after a look at what those wanted unpack to.

    Raises:
        duckdb.Error: The row loop reads it, as far as it goes.
    """
    import duckdb  # heavy: imported on use
    import pyarrow as pa

    try:
        table = open_parquet(file.resolve())
        table.check_size([name for name in columns if name in table.schema.names])
    except (OSError, pa.ArrowException) as error:
        raise duckdb.InvalidInputException(str(error)) from error
    return set(table.schema.names)


def _write_parquet(batches: "pyarrow.RecordBatchReader", to: Path, *, repeated: Sequence[str]) -> int:
    import pyarrow as pa  # heavy: imported on use
    import pyarrow.parquet as pq

    written, held = 0, batches.schema.empty_table()
    whole = [field.name for field in batches.schema if field.type == pa.int64() and field.name not in repeated]
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": list(repeated),
        "column_encoding": dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
        "write_statistics": False,
    }
    with pq.ParquetWriter(to, batches.schema, **options) as writer:
        for batch in batches:  # of any length
            held = pa.concat_tables([held, pa.Table.from_batches([batch])])
            while len(held) >= _ROW_GROUP:
                writer.write_table(held.slice(0, _ROW_GROUP))
                held = held.slice(_ROW_GROUP)
                written += _ROW_GROUP
        if len(held):
            writer.write_table(held)
    return written + len(held)


@contextmanager
def open_engine(out: Path, *, tick: Callable[[], None]) -> Iterator[Engine]:
    """Open a database inside a folder; what a killed process left there is removed before.

    Raises:
        CatalogueError: Memory does not suffice for what is done in the block.
    """
    import duckdb  # heavy: imported on use

    folder = out / ".amazon.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        connection = duckdb.connect()
        try:
            threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
            memory_mb = threads * _MB_A_THREAD
            connection.execute(f"SET threads = {threads}; SET memory_limit = '{memory_mb}MB'")
            # A join holds its right side in memory, as written: files look small to the optimizer.
            connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
            connection.execute(f"SET temp_directory = {quoted(str(folder / 'spill'))}")
            engine = Engine(connection=connection, folder=folder, threads=threads, memory_mb=memory_mb, tick=tick)
            _add_functions(engine)
            yield engine
        except duckdb.OutOfMemoryException as error:
            raise CatalogueError(
                f"{out} cannot be built: 2,048 records at once need more memory than the {_MOST_MB:,} MB that DuckDB "
                f"may use ({first_line(error)}); shorten the longest texts of the source, or take their records out"
            ) from error
        finally:
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_of_input(error: Exception) -> bool:
    """Return whether an error of the engine means that it cannot read a file, and nothing else."""
    import duckdb  # heavy: imported on use

    return (
        isinstance(error, duckdb.Error) and not isinstance(error, duckdb.OutOfMemoryException) and not full_disk(error)
    )


def _value(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):  # an integer of thousands of digits; nested too deep
        return None


def _add_functions(engine: Engine) -> None:
    """Give SQL the rules of this package for cells that are not plain."""
    from duckdb.func import FunctionNullHandling  # heavy: imported on use

    def add(name: str, function: Callable[..., Any], *arguments: str, result: str = "VARCHAR") -> None:
        engine.connection.create_function(
            name,
            function,
            list(arguments),
            result,
            null_handling=FunctionNullHandling.SPECIAL,
            side_effects=False,
        )

    def clean(cell: str) -> str | None:
        return plain_text(_value(cell), engine.cleaned)

    def described(cell: str) -> str | None:
        return read_description(_value(cell), engine.cleaned)

    def attributes(details: str | None, store: str | None) -> str | None:
        facts = read_attributes({"details": details and _value(details), "store": store and _value(store)})
        return json_text(facts) if facts else None

    add("clean_text", clean, "VARCHAR")
    add("clean_description", described, "VARCHAR")
    add("attributes_of", attributes, "VARCHAR", "VARCHAR")
    add("urls_of", lambda cell: [] if cell is None else image_urls(_value(cell)), "VARCHAR", result="VARCHAR[]")
    add("image_name", image_name, "VARCHAR", "VARCHAR")
    add("hash_order", number, "VARCHAR", result="UBIGINT")
