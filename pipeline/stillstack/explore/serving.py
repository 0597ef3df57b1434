"""A page of the explorer for one person: on loopback alone, behind a token."""

from __future__ import annotations

import html
import secrets
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

from stillstack.errors import InputError, StillstackError
from stillstack.explore.needed import panel_here

ADDRESS: Final = "127.0.0.1"


def serve(
    make_view: Callable[[], Any], title: str, ready: Callable[[str], None], *, port: int = 0
) -> None:
    """Serve a page until Ctrl-C or SIGTERM.

    It listens on loopback, and answers 403 to every request of a page or of its data that has
    neither the token of the URL nor the cookie that a request with the token was given.

    Parameters
    ----------
    make_view
        Makes what the page shows, anew each time that it is loaded.
    title
        Of the page.
    ready
        Called with the URL, token included, when the server listens.
    port
        To listen on; 0 for any that is free.

    Raises
    ------
    InputError
        The port is taken.
    MissingExtraError
        Panel is not installed.
    """
    panel = panel_here()
    from stillstack.explore.access import TokenAuth

    port = _free(port)
    token = secrets.token_urlsafe(24)
    server = panel.io.server.get_server(
        {"/": lambda: _guarded(make_view)},
        port=port,
        address=ADDRESS,
        websocket_origin=[f"{ADDRESS}:{port}", f"localhost:{port}"],
        title=title,
        auth_provider=TokenAuth(token, f"stillstack-{port}"),
    )
    server.start()
    loop = server.io_loop

    def stop(number: int, frame: Any) -> None:
        del number, frame
        loop.add_callback_from_signal(loop.stop)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ready(f"http://{ADDRESS}:{port}/?token={token}")
        loop.start()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        server.stop()


def _guarded(make_view: Callable[[], Any]) -> Any:
    """What the page shows; where it cannot be made, why."""
    try:
        return make_view()
    except StillstackError as error:
        panel = panel_here()
        return panel.pane.HTML(f"<p style='font-size: 16px'>{html.escape(str(error))}</p>")


def _free(port: int) -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as tried:
        try:
            tried.bind((ADDRESS, port))
        except OSError as error:
            raise InputError(
                f"Port {port} cannot be listened on: {error.strerror or error}.",
                cure="Choose another with --port, or leave it out.",
            ) from error
        return int(tried.getsockname()[1])
