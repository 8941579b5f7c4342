"""A file server on loopback that does what servers do: breaks off, lies, redirects, refuses."""

import hashlib
import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

BODY = bytes(range(256)) * 4096  # 1 MiB
SUM = hashlib.sha256(BODY).hexdigest()

# What Google Drive answers for a file that is too large for its scan for viruses: a form that leads to the file.
CONFIRMATION = """<html><body><form id="download-form" action="https://drive.usercontent.google.com/download">\
<input type="hidden" name="id" value="abc"><input type="hidden" name="confirm" value="t"></form></body></html>
"""


@dataclass
class Server:
    """A file server. `plan` has an entry for each request to come; when it is empty, the server behaves.

    files   by their paths; every other path is `body`
    """

    address: str = ""
    plan: list[str] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    etag: str = '"one"'
    body: bytes = BODY
    files: dict[str, bytes] = field(default_factory=dict)


def handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def page(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            step = server.plan.pop(0) if server.plan else ""
            server.seen.append({"path": self.path, "step": step, **dict(self.headers.items())})
            if step.isdigit():
                self.send_response(int(step))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if step == "redirect":
                self.send_response(302)
                self.send_header("Location", "/elsewhere/model.zip")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if step == "confirm":
                self.page(CONFIRMATION)
                return
            body = server.files.get(self.path, server.body) if step != "other bytes" else bytes(len(server.body))
            first = 0
            asked = self.headers.get("Range")
            if step == "other part":
                self.send_response(206)
                self.send_header("Content-Range", f"bytes 5-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if asked and self.headers.get("If-Range") == server.etag and step != "no ranges":
                first = int(asked.removeprefix("bytes=").rstrip("-"))
                if first >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("ETag", server.etag)
            self.send_header("Content-Type", "application/octet-stream")
            if "confirm=t" in self.path:
                self.send_header("Content-Disposition", 'attachment; filename="weights.pth"')
            rest = body[first:]
            if step == "no length":
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(rest)
                self.close_connection = True
                return
            self.send_header("Content-Length", str(len(rest) + (1000 if step == "lies" else 0)))
            self.end_headers()
            if step.startswith("break"):
                self.wfile.write(rest[: len(rest) // 3])
                self.wfile.flush()
                self.close_connection = True
                return
            if step == "slow":
                for i in range(0, len(rest), 1 << 15):
                    self.wfile.write(rest[i : i + (1 << 15)])
                    time.sleep(0.02)
                return
            self.wfile.write(rest)
            if step == "lies":
                self.close_connection = True

    return Handler


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


def serving(server: Server, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    listening = Quiet(("127.0.0.1", 0), handler(server))
    if context is not None:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    scheme = "https" if context else "http"
    server.address = f"{scheme}://127.0.0.1:{listening.server_address[1]}/models/model.zip"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:  # also where the loop around it is left early: the thread would keep the process for ever
        listening.shutdown()
        thread.join()
        listening.server_close()
