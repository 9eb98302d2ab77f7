"""An OpenID Connect issuer of the test's own: its documents over HTTPS, and tokens signed by openssl.

`GET /token?name=NAME&role=ROLE&role=…` gives a token to tests that are not Python. No third-party packages but for
`Credential`.
"""

import base64
import http.server
import json
import ssl
import subprocess
import threading
import time
import urllib.parse

from certificates import Workshop

AUDIENCE = "https://iothubs.azure.net"


def _encoded(data):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Serves on loopback until it is closed."""

    def __init__(self):
        self.workshop = Workshop()
        self.ca = self.workshop.ca("Issuer CA")
        server = self.workshop.server("127.0.0.1", self.ca)
        self.key_file = self.workshop.folder / "signing.key"
        subprocess.run(["openssl", "genrsa", "-out", self.key_file, "2048"], check=True, capture_output=True)
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path, _, query = self.path.partition("?")
                if path == "/token":
                    asked = urllib.parse.parse_qs(query)
                    body = issuer.token(asked["name"][0], *asked.get("role", [])).encode()
                else:
                    body = json.dumps(issuer.documents().get(path, {})).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificate_file, server.key_file)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def documents(self):
        command = ["openssl", "rsa", "-in", self.key_file, "-noout", "-modulus"]
        modulus = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().split("=")[1]
        key = {"kty": "RSA", "kid": "k1", "use": "sig", "n": _encoded(bytes.fromhex(modulus)), "e": "AQAB"}
        return {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": [key]},
        }

    def token(self, name, *roles, lifetime=3600):
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": name, "exp": int(time.time()) + lifetime, "roles": roles}
        message = f'{_encoded({"alg": "RS256", "typ": "JWT", "kid": "k1"})}.{_encoded(claims)}'
        command = ["openssl", "dgst", "-sha256", "-sign", self.key_file]
        signature = subprocess.run(command, input=message.encode(), check=True, capture_output=True).stdout
        return f"{message}.{_encoded(signature)}"

    def hub_arguments(self, nodes=1):
        """What a hub is started with that takes tokens of this issuer alone."""
        settings = {
            "auth.oidc.issuer": self.url,
            "auth.oidc.ca_file": str(self.ca.certificate_file),
            "auth.service.shared_policies": "false",
        }
        arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        if nodes > 1:
            # `holdfast dev` adds its further nodes with it.
            file = self.workshop.folder / "token"
            file.write_text(self.token("dev", "IoT Hub Data Contributor"), encoding="ascii")
            arguments += ["--token-file", str(file)]
        return arguments

    def credential(self, name, *roles):
        return Credential(self, name, roles)


class Credential:
    """A `TokenCredential` of azure-core, as the SDKs take it."""

    def __init__(self, issuer, name, roles):
        self.issuer, self.name, self.roles = issuer, name, roles
        self.scopes = []

    def get_token(self, *scopes, **_):
        from azure.core.credentials import AccessToken

        self.scopes.extend(scopes)
        return AccessToken(self.issuer.token(self.name, *self.roles), int(time.time()) + 3600)
