"""A stand-in for a SQL warehouse: Databricks' own protocol (Thrift over HTTP), with DuckDB behind it.

The tables are those of a lakehouse. The stand-in can also hang, be slow, or refuse the token.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import duckdb
import pyarrow as pa
from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
from deltalake import DeltaTable
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

from tests import lake

TOKEN = "dapi-a-token-that-nobody-may-see"

CATALOG = "shopmetrics_ecommerce"

OK = ttypes.TStatus(statusCode=ttypes.TStatusCode.SUCCESS_STATUS)


class Warehouse:
    """The behaviour of the server, and the statements that it received.

    Attributes:
        seconds: how long it waits before it answers a statement; if infinite, it never answers.
        refuses: whether it answers every request with 403.
        statements: text and parameters of each statement.
    """

    def __init__(self, lakehouse: Path) -> None:
        self.lakehouse = lakehouse
        self.seconds = 0.0
        self.refuses = False
        self.statements: list[tuple[str, dict[str, str]]] = []
        self.ended = Event()

    def OpenSession(self, req: Any) -> Any:
        return ttypes.TOpenSessionResp(
            status=OK,
            serverProtocolVersion=ttypes.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V7,
            sessionHandle=ttypes.TSessionHandle(sessionId=_handle()),
            canUseMultipleCatalogs=True,
        )

    def CloseSession(self, req: Any) -> Any:
        return ttypes.TCloseSessionResp(status=OK)

    def CloseOperation(self, req: Any) -> Any:
        return ttypes.TCloseOperationResp(status=OK)

    def ExecuteStatement(self, req: Any) -> Any:
        values = {one.name: one.value.stringValue for one in req.parameters or []}
        kinds = {one.name: one.type for one in req.parameters or []}
        self.statements.append((req.statement, values))
        self.ended.wait(min(self.seconds, 60))
        handle = ttypes.TOperationHandle(_handle(), ttypes.TOperationType.EXECUTE_STATEMENT, True)
        try:
            table = self._answer(req.statement, values, kinds)
        except duckdb.Error as error:
            failed = ttypes.TGetOperationStatusResp(
                status=OK, operationState=ttypes.TOperationState.ERROR_STATE, displayMessage=str(error)
            )
            return ttypes.TExecuteStatementResp(
                status=OK, operationHandle=handle, directResults=ttypes.TSparkDirectResults(operationStatus=failed)
            )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        content = sink.getvalue().to_pybytes()
        columns = [
            ttypes.TColumnDesc(name, ttypes.TTypeDesc([ttypes.TTypeEntry(ttypes.TPrimitiveTypeEntry(7))]), i)
            for i, name in enumerate(table.column_names, 1)
        ]
        schema = len(table.schema.serialize())
        return ttypes.TExecuteStatementResp(
            status=OK,
            operationHandle=handle,
            directResults=ttypes.TSparkDirectResults(
                operationStatus=ttypes.TGetOperationStatusResp(
                    status=OK, operationState=ttypes.TOperationState.FINISHED_STATE
                ),
                resultSetMetadata=ttypes.TGetResultSetMetadataResp(
                    status=OK,
                    schema=ttypes.TTableSchema(columns),
                    resultFormat=ttypes.TSparkRowSetType.ARROW_BASED_SET,
                    lz4Compressed=False,
                    arrowSchema=content[:schema],
                ),
                resultSet=ttypes.TFetchResultsResp(
                    status=OK,
                    hasMoreRows=False,
                    results=ttypes.TRowSet(
                        startRowOffset=0,
                        rows=[],
                        arrowBatches=[ttypes.TSparkArrowBatch(content[schema:], table.num_rows)],
                    ),
                ),
                closeOperation=ttypes.TCloseOperationResp(status=OK),
            ),
        )

    def _answer(self, statement: str, values: dict[str, str], kinds: dict[str, str]) -> pa.Table:
        text = statement.replace(f"`{CATALOG}`.", "")
        given = {
            name: duckdb.execute(f"SELECT ?::{kinds[name]}", [value]).fetchone()[0] for name, value in values.items()
        }
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            for schema, name in sorted(set(lake.NAME.findall(text))):
                con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
                if DeltaTable.is_deltatable(str(self.lakehouse / schema / name)):
                    con.from_arrow(lake.read(self.lakehouse / schema / name)).to_table(f"{schema}.{name}")
            return con.sql(re.sub(r"(?<!:):(\w+)", r"$\1", text), params=given or None).to_arrow_table()


def _handle() -> Any:
    return ttypes.THandleIdentifier(uuid.uuid4().bytes, uuid.uuid4().bytes)


@contextmanager
def serving(warehouse: Warehouse) -> Iterator[str]:
    """Serve a warehouse on the loopback interface, and provide its address."""
    processor = TCLIService.Processor(warehouse)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if warehouse.refuses or self.headers["Authorization"] != f"Bearer {TOKEN}":
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            out = TMemoryBuffer()
            processor.process(TBinaryProtocol(TMemoryBuffer(body)), TBinaryProtocol(out))
            answer = out.getvalue()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-thrift")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/sql"
    finally:
        warehouse.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
