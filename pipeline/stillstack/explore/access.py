"""Who may see a page: whoever has the token that its URL ends with."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

from bokeh.server.auth_provider import AuthProvider
from tornado.web import HTTPError


class TokenAuth(AuthProvider):
    """Lets in requests with the token, and answers 403 to others.

    The first request has it in its URL and is given it as a cookie, which the requests that the
    page itself makes bring along.

    Parameters
    ----------
    token
        Secret of one server.
    cookie
        Name of its cookie: cookies are shared by all ports of a host.
    """

    def __init__(self, token: str, cookie: str) -> None:
        self._token = token
        self._cookie = cookie
        super().__init__()

    @property
    def get_user(self) -> Callable[[Any], str]:
        """Function that checks a request."""
        return self._checked

    @property
    def get_user_async(self) -> None:
        """None: the check does not wait for anything."""
        return

    @property
    def login_url(self) -> str:
        """Never gone to: a request without the token is refused."""
        return "/"

    @property
    def get_login_url(self) -> None:
        """None."""
        return

    @property
    def login_handler(self) -> None:
        """None."""
        return

    @property
    def logout_url(self) -> None:
        """None."""
        return

    @property
    def logout_handler(self) -> None:
        """None."""
        return

    def _checked(self, handler: Any) -> str:
        asked = handler.get_query_argument("token", "")
        if self._same(asked):
            handler.set_cookie(
                self._cookie, self._token, httponly=True, samesite="Strict", path="/"
            )
        elif not self._same(handler.get_cookie(self._cookie, "")):
            raise HTTPError(403)
        return "token"

    def _same(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())
