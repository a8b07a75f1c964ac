"""An RTSP server by GStreamer; serves until it is killed.

For the system's Python, with gir1.2-gst-rtsp-server-1.0, and glib-networking for TLS.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any


def main() -> None:
    """Serve one pipeline at /camera."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--launch", required=True)
    parser.add_argument("--login", nargs=3, metavar=("METHOD", "USER", "PASSWORD"))
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--udp", action="store_true", help="UDP alone")
    options = parser.parse_args()
    gi = importlib.import_module("gi")
    for name in ("Gst", "GstRtsp", "GstRtspServer"):
        gi.require_version(name, "1.0")
    gst, rtsp, serving, glib, gio = (
        importlib.import_module(f"gi.repository.{name}") for name in ("Gst", "GstRtsp", "GstRtspServer", "GLib", "Gio")
    )
    gst.init(None)
    server = serving.RTSPServer()
    server.set_address(options.host)
    server.set_service(options.port)
    factory = serving.RTSPMediaFactory()
    factory.set_launch(f"( {options.launch} )")
    factory.set_shared(True)
    lower = rtsp.RTSPLowerTrans
    factory.set_protocols(lower.UDP if options.udp else lower.UDP | lower.TCP)
    if options.login or options.tls:
        server.set_auth(_access(options, factory, serving, rtsp, gio))
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    glib.MainLoop().run()


def _access(options: argparse.Namespace, factory: Any, serving: Any, rtsp: Any, gio: Any) -> Any:
    """Who may see the camera, over TLS or not."""
    auth, token, permissions = serving.RTSPAuth(), serving.RTSPToken(), serving.RTSPPermissions()
    role = "viewer"
    token.set_string(serving.RTSP_TOKEN_MEDIA_FACTORY_ROLE, role)
    if options.tls:
        auth.set_tls_certificate(gio.TlsCertificate.new_from_files(*options.tls))
    if options.login:
        method, user, password = options.login
        auth.set_supported_methods(getattr(rtsp.RTSPAuthMethod, method.upper()))
        if method == "basic":
            auth.add_basic(serving.RTSPAuth.make_basic(user, password), token)
        else:
            auth.add_digest(user, password, token)
    else:
        auth.set_default_token(token)
    is_allowed = True
    for action in ("access", "construct"):
        permissions.add_permission_for_role(role, f"media.factory.{action}", is_allowed)
    factory.set_permissions(permissions)
    return auth


if __name__ == "__main__":
    main()
