"""What a small Hugging Face Hub holds, and its answer to each question that huggingface_hub's client asks."""

import base64
import hashlib
import json
from dataclasses import dataclass, field

USER = "tester"
NOBODY, EXPIRED = "", "expired"  # tokens; any other is the user's


class Refused(Exception):
    """An answer that is no success: its status, the Hub's code for it, and what else it says."""

    def __init__(self, status: int, code: str = "", content: dict | None = None, **headers: str) -> None:
        self.status, self.content = status, content or {"error": code}
        self.headers = headers | ({"X-Error-Code": code} if code else {})


@dataclass
class Asked:
    """What comes with a question."""

    token: str
    body: bytes
    wants_review: bool  # ?create_pr=1

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Repository:
    """Commits by id, each with all its files, and branches by name."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Let a branch hold these files as well."""
        self.messages.append(message)
        name = hashlib.sha1(f"{branch} {len(self.messages)}".encode()).hexdigest()
        self.commits[name] = self.files(branch) | files
        self.branches[branch] = name
        return name

    def at(self, revision: str) -> str:
        """The commit of a branch, or of itself."""
        return self.branches.get(revision, revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What a branch or commit holds."""
        return self.commits[self.at(revision)]


class Hub:
    """Repositories by name, in memory; ``uploads`` says how weights come, "regular" or "lfs"."""

    def __init__(self, uploads: str) -> None:
        self.uploads, self.url = uploads, ""
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}  # that came by PUT

    def _found(self, asked: Asked, name: str, revision: str = "main") -> Repository:
        found = self.repositories.get(name)
        if found is None or (found.private and asked.token == NOBODY):
            raise Refused(404 if asked.token else 401, "RepoNotFound")
        if found.at(revision) not in found.commits:
            raise Refused(404, "RevisionNotFound")
        return found

    def _written(self, asked: Asked, name: str, revision: str = "main") -> Repository:
        self.whoami(asked)
        if not name.startswith(f"{USER}/"):
            raise Refused(403)
        return self._found(asked, name, revision)

    def whoami(self, asked: Asked):
        if asked.token in (NOBODY, EXPIRED):
            raise Refused(401)
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create(self, asked: Asked):
        name = f"{asked.json.get('organization') or USER}/{asked.json['name']}"
        created = {"url": f"{self.url}/{name}", "name": name, "id": name}
        if name in self.repositories:
            self.whoami(asked)
            raise Refused(409, content=created)
        self.repositories[name] = Repository(asked.json.get("private") or asked.json.get("visibility") == "private")
        try:
            self._written(asked, name)
        except Refused:
            del self.repositories[name]
            raise
        return created

    def validate(self, asked: Asked):
        return {"errors": [], "warnings": []}

    def preupload(self, asked: Asked, name: str, revision: str):
        self._written(asked, name, revision)
        paths = [file["path"] for file in asked.json["files"]]
        mode = {path: self.uploads if path.endswith(".safetensors") else "regular" for path in paths}
        return {"files": [{"path": path, "uploadMode": mode[path], "shouldIgnore": False} for path in paths]}

    def batch(self, asked: Asked, name: str):
        self._written(asked, name)
        objects = [{"oid": one["oid"], "size": one["size"]} for one in asked.json["objects"]]
        for one in objects:
            if one["oid"] not in self.blobs:
                one["actions"] = {"upload": {"href": f"{self.url}/blobs/{one['oid']}", "header": {}}}
        return {"transfer": "basic", "objects": objects}

    def put(self, asked: Asked, oid: str):
        if hashlib.sha256(asked.body).hexdigest() != oid:
            raise Refused(400)
        self.blobs[oid] = asked.body
        return {}

    def commit(self, asked: Asked, name: str, revision: str):
        repository, files = self._written(asked, name, revision), {}
        header, *lines = [json.loads(line) for line in asked.body.splitlines()]
        for line in lines:
            value, blob = line["value"], line["key"] == "lfsFile"
            files[value["path"]] = self.blobs[value["oid"]] if blob else base64.b64decode(value["content"])
        branch = f"refs/pr/{len(repository.branches)}" if asked.wants_review else revision
        repository.branches.setdefault(branch, repository.at(revision))
        oid = repository.commit(branch, files, header["value"]["summary"])
        review = {"pullRequestUrl": f"{self.url}/{name}/discussions/{branch[8:]}"} if asked.wants_review else {}
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"} | review

    def branch(self, asked: Asked, name: str, revision: str):
        repository = self._written(asked, name)
        if revision in repository.branches:
            raise Refused(409)
        repository.branches[revision] = repository.at("main")
        return {}

    def info(self, asked: Asked, name: str, revision: str = "main"):
        found = self._found(asked, name, revision)
        siblings = [{"rfilename": path} for path in found.files(revision)]
        about = {"id": name, "modelId": name, "private": found.private, "tags": []}
        return about | {"sha": found.at(revision), "siblings": siblings}

    def tree(self, asked: Asked, name: str, revision: str, folder: str | None = None):
        return [
            {"type": "file", "path": path, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
            for path, data in self._found(asked, name, revision).files(revision).items()
            if not folder or path.startswith(f"{folder}/")
        ]

    def refs(self, asked: Asked, name: str):
        branches = self._found(asked, name).branches.items()
        listed = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid} for branch, oid in branches]
        return {"branches": listed, "tags": [], "converts": []}

    def resolve(self, asked: Asked, name: str, revision: str, path: str):
        found = self._found(asked, name, revision)
        commit = {"X-Repo-Commit": found.at(revision)}
        if path not in found.files(revision):
            raise Refused(404, "EntryNotFound", **commit)
        data = found.files(revision)[path]
        return data, commit | {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}


NAME, REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = [
    ("POST", "/api/repos/create", Hub.create),
    ("GET", "/api/whoami-v2", Hub.whoami),
    ("POST", "/api/validate-yaml", Hub.validate),
    ("POST", rf"/api/models/{NAME}/preupload/{REVISION}", Hub.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Hub.batch),
    ("PUT", r"/blobs/(?P<oid>\w+)", Hub.put),
    ("POST", rf"/api/models/{NAME}/commit/{REVISION}", Hub.commit),
    ("POST", rf"/api/models/{NAME}/branch/{REVISION}", Hub.branch),
    ("GET", rf"/api/models/{NAME}/refs", Hub.refs),
    ("GET", rf"/api/models/{NAME}/revision/{REVISION}", Hub.info),
    ("GET", rf"/api/models/{NAME}/tree/{REVISION}(/(?P<folder>.+))?", Hub.tree),
    ("GET", rf"/api/models/{NAME}", Hub.info),
    ("GET HEAD", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", Hub.resolve),
]
