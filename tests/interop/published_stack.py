"""The demo's stack with servers beside it that nobody here wrote."""

from typing import Any

from compose.demo.stack import Stack
from tests.stack import admin, approve_all, demo_objects, prepare


def with_servers(stack: Stack, urls: dict[str, str], **specs: Any) -> None:
    """Declare each server with a token we issue, approve its tools, let support agents use them.

    `specs` are further members of each McpServer's spec.
    """
    objects = demo_objects(stack)
    by_name = {(each["kind"], each["name"]): each["spec"] for each in objects}
    by_name["Gateway", stack.gateway]["servers"] += list(urls)
    by_name["Agent", "support-bot"]["tools"] += [f"{name}/*" for name in urls]
    for name, url in urls.items():
        token = f"{name}-token"
        objects.append(
            {
                "kind": "McpServer",
                "name": name,
                "spec": {
                    "url": url,
                    "person_attributes": ["groups"],
                    "credential": {"provider": token},
                    **specs,
                },
            }
        )
        provider = {"type": "issued_token", "binding": "run", "lifetime_seconds": 300}
        objects.append({"kind": "CredentialProvider", "name": token, "spec": provider})
        cedar = f"""
            @id("grant-{name}")
            permit (principal in AgentGroup::"support-agents", action,
                    resource in McpServer::"{name}")
            when {{ context.run has user && context.run.user in Group::"local/staff" }};
        """
        objects.append({"kind": "Policy", "name": name, "spec": {"cedar": cedar}})
    prepare(stack, objects)
    with admin(stack) as api:
        for name in urls:
            approve_all(api, name)
        api.call("GET", "/policies/status", query={"wait": "20"}, wait_seconds=20)
