"""Users and administrators of the lab's homeservers, over the client API."""
import hashlib
import hmac
import itertools
import json
import urllib.error
import urllib.parse
import urllib.request


def quote(text):
    return urllib.parse.quote(text, safe="")


def call(url, body=None, token=None, method="POST"):
    """Returns the JSON of the answer; of a refusal its status and body."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = "Bearer " + token
    data = None if method == "GET" else json.dumps({} if body is None else body).encode()
    request = urllib.request.Request(url, method=method, headers=headers, data=data)
    try:
        with urllib.request.urlopen(request, timeout=180) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return {"_status": error.code, "_body": error.read().decode()[:500]}


class User:
    _transaction = itertools.count()

    def __init__(self, url, name):
        self.url = url
        self.token = None
        answer = self.call("POST", "register", {"username": name, "password": "pw-" + name,
                                                "auth": {"type": "m.login.dummy"}})
        self.token, self.id = answer["access_token"], answer["user_id"]

    def call(self, method, path, body=None):
        answer = call(f"{self.url}/_matrix/client/v3/{path}", body, self.token, method)
        if "_status" in answer:
            raise RuntimeError(f"{method} {path}: {answer}")
        return answer

    def create(self, **options):
        return self.call("POST", "createRoom", options)["room_id"]

    def message(self, room_id, text, **content):
        path = f"rooms/{quote(room_id)}/send/m.room.message/{next(self._transaction)}"
        return self.call("PUT", path, {"msgtype": "m.text", "body": text, **content})["event_id"]

    def messages(self, room_id, text, count):
        return [self.message(room_id, f"{text}{n}") for n in range(count)]

    def set_state(self, room_id, event_type, content, key=""):
        return self.call("PUT", f"rooms/{quote(room_id)}/state/{event_type}/{quote(key)}", content)["event_id"]

    def join(self, room_id, via=()):
        query = "&".join(f"server_name={quote(v)}&via={quote(v)}" for v in via)
        return self.call("POST", f"join/{quote(room_id)}" + (f"?{query}" if query else ""))

    def act(self, room_id, what, **body):
        """leave, kick, ban, …"""
        return self.call("POST", f"rooms/{quote(room_id)}/{what}", body)

    def redact(self, room_id, event_id):
        path = f"rooms/{quote(room_id)}/redact/{quote(event_id)}/{next(self._transaction)}"
        return self.call("PUT", path, {"reason": "x"})["event_id"]

    def page_back(self, room_id, pages=12, limit=50):
        """Reads a room backwards, as a client does. Returns the events seen."""
        seen, token = [], ""
        for _ in range(pages):
            query = f"dir=b&limit={limit}" + (f"&from={quote(token)}" if token else "")
            page = self.call("GET", f"rooms/{quote(room_id)}/messages?{query}")
            seen += page["chunk"]
            token = page.get("end")
            if not token:
                break
        return seen


class Administrator:
    """Made by the shared secret of settings.py."""

    def __init__(self, url, name):
        self.url = url
        register = url + "/_synapse/admin/v1/register"
        nonce = call(register, method="GET")["nonce"]
        code = hmac.new(b"lab", b"\0".join(x.encode() for x in (nonce, name, "pw", "admin")), hashlib.sha1)
        answer = call(register, {"nonce": nonce, "username": name, "password": "pw", "admin": True,
                                 "mac": code.hexdigest()})
        self.token = answer["access_token"]

    def call(self, method, path, body=None):
        return call(self.url + "/_synapse/admin" + path, body, self.token, method)
