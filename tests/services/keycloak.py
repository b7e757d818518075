"""A real Keycloak for the tests, with the realm of the demo and an administrator at its API.

Installing and starting it is `compose.services.keycloak`, which the demo uses as well.
"""

from typing import Any

import httpx2

from compose.demo.people import PASSWORDS
from compose.services.keycloak import ADMINISTRATOR, REALM, Keycloak


class Realm:
    """The realm in the hands of its administrator: what the tests change there, by plain REST."""

    def __init__(self, keycloak: Keycloak, name: str = REALM) -> None:
        self.keycloak = keycloak
        self.issuer = f"{keycloak.base_url}/realms/{name}"
        self._name = name
        self._http = httpx2.Client(timeout=20, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request of the realm's admin API; its JSON, if any."""
        return self._request(
            method, f"{self.keycloak.base_url}/admin/realms/{self._name}/{path}", body
        )

    def add_realm(self, name: str, *users: str, client: dict[str, Any]) -> "Realm":
        """Another realm of the same Keycloak, with a client and people with their own passwords."""
        people = [
            {
                "username": user,
                "enabled": True,
                "emailVerified": True,
                "email": f"{user}@{name}.example",
                "firstName": user,
                "lastName": name,
                "credentials": [{"type": "password", "value": PASSWORDS[user], "temporary": False}],
            }
            for user in users
        ]
        realm = {"realm": name, "enabled": True, "clients": [client], "users": people}
        self._request("POST", f"{self.keycloak.base_url}/admin/realms", realm)
        return Realm(self.keycloak, name)

    def _request(self, method: str, url: str, body: object) -> Any:
        headers = {"authorization": f"Bearer {self._token()}"}
        answer = self._http.request(method, url, json=body, headers=headers)
        assert answer.is_success, f"{method} {url}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def user(self, name: str) -> str:
        """A user's id, which is their `sub`."""
        (found,) = self.call("GET", f"users?username={name}&exact=true")
        return str(found["id"])

    def group(self, name: str) -> str:
        """The id of a group at the top of the tree."""
        found = self.call("GET", f"groups?search={name}&exact=true")
        return str(next(group["id"] for group in found if group["name"] == name))

    def join(self, user: str, group: str) -> None:
        self.call("PUT", f"users/{self.user(user)}/groups/{self.group(group)}")

    def leave(self, user: str, group: str) -> None:
        self.call("DELETE", f"users/{self.user(user)}/groups/{self.group(group)}")

    def enable(self, user: str, enabled: bool) -> None:
        self.call("PUT", f"users/{self.user(user)}", {"enabled": enabled})

    def sessions(self, user: str) -> list[str]:
        """The ids of a user's sessions, oldest first."""
        found = self.call("GET", f"users/{self.user(user)}/sessions")
        return [str(each["id"]) for each in sorted(found, key=lambda each: int(each["start"]))]

    def end_session(self, session: str) -> None:
        self.call("DELETE", f"sessions/{session}")

    def log_out(self, user: str) -> None:
        """End every session of a user."""
        self.call("POST", f"users/{self.user(user)}/logout")

    def role(self, user: str, role: str, *, granted: bool) -> None:
        """Give or take a role of the realm."""
        found = self.call("GET", f"roles/{role}")
        method = "POST" if granted else "DELETE"
        self.call(method, f"users/{self.user(user)}/role-mappings/realm", [found])

    def change_client(self, client_id: str, **attributes: str) -> None:
        """Set attributes of a client."""
        (client,) = self.call("GET", f"clients?clientId={client_id}")
        client["attributes"] = client.get("attributes", {}) | attributes
        self.call("PUT", f"clients/{client['id']}", client)

    def _token(self) -> str:
        user, password = ADMINISTRATOR
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": user,
            "password": password,
        }
        url = f"{self.keycloak.base_url}/realms/master/protocol/openid-connect/token"
        return str(self._http.post(url, data=form).raise_for_status().json()["access_token"])
