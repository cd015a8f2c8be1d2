"""A module for the lab's Synapse: does now what Synapse does on a timer, and holds a faster join open.

It changes when things happen, never what happens. Load it nowhere else.

  POST /_lab/censor               one run of the censoring of redacted events (Synapse: every 5 minutes)
  POST /_lab/hold_partial         faster joins that are made from now on stay in partial state
  POST /_lab/release_partial      ... until now
  POST /_lab/gc_state_groups      deletes the state groups that are marked for deletion, without waiting
"""
import json

from synapse.logging.context import make_deferred_yieldable, run_in_background
from twisted.internet import defer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Hook(Resource):
    isLeaf = True

    def __init__(self, module):
        super().__init__()
        self.module = module

    def render(self, request):
        what = request.postpath[0].decode()

        async def perform():
            try:
                await getattr(self.module, "do_" + what)()
                answer = {"ok": True}
            except Exception as error:
                answer = {"ok": False, "error": repr(error)}
            request.setHeader(b"Content-Type", b"application/json")
            request.write(json.dumps(answer).encode())
            request.finish()

        run_in_background(perform)
        return NOT_DONE_YET


class LabModule:
    def __init__(self, config, api):
        self.homeserver = api._hs
        self.is_holding = False
        self.waiting = []
        self.synchronise = None
        api.register_web_resource("/_lab", Hook(self))

    @staticmethod
    def parse_config(config):
        return config

    async def do_censor(self):
        store = self.homeserver.get_datastores().main
        await make_deferred_yieldable(store._censor_redactions())

    async def do_hold_partial(self):
        handler = self.homeserver.get_federation_handler()
        if self.is_holding:
            return
        self.is_holding = True
        self.synchronise = handler._sync_partial_state_room

        async def wait_first(*arguments, **named):
            await make_deferred_yieldable(self._released())
            return await self.synchronise(*arguments, **named)

        handler._sync_partial_state_room = wait_first

    def _released(self):
        deferred = defer.Deferred()
        if self.is_holding:
            self.waiting.append(deferred)
        else:
            deferred.callback(None)
        return deferred

    async def do_release_partial(self):
        self.is_holding = False
        self.homeserver.get_federation_handler()._sync_partial_state_room = self.synchronise
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            deferred.callback(None)

    async def do_gc_state_groups(self):
        self.homeserver.get_datastores().state_deletion.DELAY_BEFORE_DELETION_MS = 0
        await self.homeserver.get_storage_controllers().purge_events._delete_state_groups_loop()
