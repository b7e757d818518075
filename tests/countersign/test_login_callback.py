"""The loopback listener of `countersign login`: any local program may knock, only ours gets in."""

import threading

import httpx2
import pytest

from countersign.cli.login import _Callback


@pytest.mark.processes
def test_only_the_redirect_with_the_right_state_ends_the_login() -> None:
    with _Callback(10.0, "right") as callback:
        statuses: list[int] = []

        def knock() -> None:
            with httpx2.Client(trust_env=False, timeout=5.0) as http:
                statuses.extend(
                    http.get(callback.redirect_uri + query).status_code
                    for query in ("", "?code=x", "?code=x&state=wrong", "?code=c&state=right")
                )

        knocking = threading.Thread(target=knock)
        knocking.start()
        answer = callback.wait()
        knocking.join()
    assert answer == {"code": "c", "state": "right"}
    assert statuses == [400, 400, 400, 200]
