"""Have Prefect call a webhook when a run of ours fails, crashes or hangs beyond its timeout, also when its runner is gone.

HOOK_URL=https://... python deploy/prefect/notify.py      at the API of PREFECT_API_URL; again: changes the address
"""

import os
import sys

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture

NAME = "dlflow-failed"
PAYLOAD = """{"flow": {{ flow.name | tojson }}, "run": {{ flow_run.name | tojson }}, "pipeline": {{ deployment.name | tojson }},
 "state": {{ flow_run.state.name | tojson }}, "error": {{ flow_run.state.message | tojson }}}"""


def main() -> None:
    """Save the address as a block (Prefect encrypts it), and make or change the automation that calls it."""
    address = os.environ.get("HOOK_URL")
    if not address:
        sys.exit("HOOK_URL is not set; give the address that shall be called: HOOK_URL=https://...")
    hook = Webhook(url=address, headers={"Content-Type": "application/json"})
    wanted = Automation(
        name=NAME,
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
            match_related={"prefect.resource.id": "prefect.tag.dlflow", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=hook.save(NAME, overwrite=True), payload=PAYLOAD)],
    )
    try:
        wanted.id = Automation.read(name=NAME).id
    except ValueError:  # there is none yet
        wanted.create()
    else:
        wanted.update()
    sys.stdout.write(f"{NAME}: called when a run with the tag dlflow fails\n")


if __name__ == "__main__":
    main()
