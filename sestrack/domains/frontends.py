"""What stands in front of `sestrack serve`: configurations that do TLS, and what a CDN needs.

All keep the Host header, for a token is good on its own trace domain only; pass the client's
address on, and none that a client made up; cache nothing; and leave a name without a
certificate without a handshake, rather than answer with another's certificate.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class FrontEnd(StrEnum):
    """Programs there is a configuration for."""

    NGINX = "nginx"
    CADDY = "caddy"
    HAPROXY = "haproxy"


class Setup(NamedTuple):
    """What a configuration is made for."""

    name: str
    """The trace domain."""
    upstream: str
    """HOST:PORT of `sestrack serve`."""
    ask: str
    """HOST:PORT of its `--ask`."""
    port: int
    """That its URLs name; 443 where they name none."""
    through_cdn: bool
    """A CDN stands before the front end: the addresses it tells are to be kept."""


def configuration(kind: FrontEnd, setup: Setup) -> str:
    """Write a complete configuration."""
    client = _CLIENTS[kind][setup.through_cdn]
    behind = "" if setup.port == _HTTPS else f":{setup.port}"
    values = setup._asdict() | {"client": client, "trust": _trust(setup), "behind": behind}
    text = _CONFIGURATIONS[kind] if client else _CONFIGURATIONS[kind].replace("@client@\n", "")
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


_HTTPS = 443


def _trust(setup: Setup) -> str:
    own = "--trust-proxy 127.0.0.1"
    if not setup.through_cdn:
        return own
    return f"{own} --trust-proxy CIDR\n# (one --trust-proxy CIDR for each network of the CDN)"


_NGINX = """\
# sestrack behind nginx (1.19.4 or newer): /etc/nginx/conf.d/sestrack-@name@.conf
# in front of: sestrack serve --bind @upstream@ @trust@
# First certificate: nginx does not start while one is missing, so http comes first.
#   mkdir -p /var/www/acme
#   sed '/^# https/,$d' sestrack.conf > /etc/nginx/conf.d/sestrack-@name@.conf; nginx -s reload
#   certbot certonly --webroot -w /var/www/acme -d @name@ --deploy-hook 'nginx -s reload'
#   cp sestrack.conf /etc/nginx/conf.d/sestrack-@name@.conf; nginx -s reload

server {
    listen 80;
    listen [::]:80;
    server_name @name@;
    location /.well-known/acme-challenge/ {
        root /var/www/acme;
    }
    location / {
        return 301 https://$host@behind@$request_uri;
    }
}

# https, and with it all that needs the certificate
upstream sestrack-@name@ {
    server @upstream@;
    keepalive 256;    # open connections kept: at least as many as are used at once
}

server {
    listen @port@ ssl;
    listen [::]:@port@ ssl;
    server_name @name@;
    ssl_certificate /etc/letsencrypt/live/@name@/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/@name@/privkey.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    access_log off;    # the events are sestrack's to keep, and to forget

    location / {
        proxy_pass http://sestrack-@name@;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;    # without it no token opens: reached-but-404
@client@
        proxy_set_header Forwarded "";
        proxy_cache off;
        proxy_connect_timeout 2s;
        proxy_read_timeout 10s;
    }
}

# A name without a certificate should get no handshake, rather than another's certificate.  nginx
# takes one default_server: take the # away in one file only, and if there is none elsewhere.
#server {
#    listen @port@ ssl default_server;
#    listen [::]:@port@ ssl default_server;
#    ssl_protocols TLSv1.2 TLSv1.3;
#    ssl_reject_handshake on;
#}
"""

_CADDY = """\
# sestrack behind Caddy (2.6 or newer): /etc/caddy/Caddyfile
# in front of: sestrack serve --bind @upstream@ --ask @ask@ @trust@
# One file for all trace domains: certificates come by themselves, for each whose DNS is
# verified, not for @name@ alone; `sestrack domain verify` makes Caddy fetch the first.
{
    on_demand_tls {
        # Caddy 2.8 and newer calls it: permission http { endpoint http://@ask@/ask }
        ask http://@ask@/ask
    }
}

# http:// is redirected by Caddy itself
https://@behind@ {
    tls {
        on_demand
    }
    reverse_proxy @upstream@ {
        # Host is kept, and X-Forwarded-For is written anew, by Caddy's own defaults
        header_up -Forwarded
@client@
    }
}
"""

_HAPROXY = """\
# sestrack behind HAProxy (2.2 or newer): /etc/haproxy/haproxy.cfg
# in front of: sestrack serve --bind @upstream@ @trust@
# One file for all trace domains: each needs a certificate in the folder, and no more.
#   mkdir -p /etc/haproxy/sestrack; systemctl reload haproxy    # empty at first
#   certbot certonly --standalone --http-01-port 8402 -d @name@ --deploy-hook \\
#     'cd "$RENEWED_LINEAGE" && cat fullchain.pem privkey.pem > /etc/haproxy/sestrack/@name@.pem &&
#      systemctl reload haproxy'

global
    ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
    mode http
    timeout connect 2s
    timeout http-request 10s
    timeout client 65s
    timeout server 10s

frontend sestrack_http
    bind :80
    bind [::]:80 v6only
    acl acme path_beg /.well-known/acme-challenge/
    http-request redirect location https://%[req.hdr(host),field(1,:)]@behind@%[pathq] code 301 \
unless acme
    use_backend acme if acme

frontend sestrack_https
    # every .pem in the folder; a name without one gets no handshake
    bind :@port@ ssl crt /etc/haproxy/sestrack/ strict-sni
    bind [::]:@port@ v6only ssl crt /etc/haproxy/sestrack/ strict-sni
    http-request del-header Forwarded
@client@
    default_backend sestrack

backend sestrack
    option httpchk GET /healthz
    http-reuse always
    server sestrack @upstream@ check

backend acme
    server certbot 127.0.0.1:8402
"""

_CONFIGURATIONS = {
    FrontEnd.NGINX: _NGINX,
    FrontEnd.CADDY: _CADDY,
    FrontEnd.HAPROXY: _HAPROXY,
}
# without a CDN, and with one
_CLIENTS = {
    FrontEnd.NGINX: (
        "        proxy_set_header X-Forwarded-For $remote_addr;    # nothing that a client wrote",
        "        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;    # and the CDN's",
    ),
    FrontEnd.CADDY: (
        "",
        """\
        # the CDN's networks, whose X-Forwarded-For is to be kept; here all private ones
        trusted_proxies private_ranges""",
    ),
    FrontEnd.HAPROXY: (
        "    http-request set-header X-Forwarded-For %[src]    # nothing that a client wrote",
        "    option forwardfor    # the CDN's address after those that it tells",
    ),
}


class Cdn(NamedTuple):
    """A CDN, by the names it gives out, and what is to be set there."""

    title: str
    suffixes: tuple[str, ...]
    origin: str
    host: str
    cache: str
    tls: str


CDNS = (
    Cdn(
        "Cloudflare", (".cdn.cloudflare.net",),
        "the record of the trace domain: proxied, to the edge",
        "nothing: Host and User-Agent reach us unchanged",
        "a Cache Rule for this host: Bypass cache (the pixel is a .gif, and cached without it)",
        'SSL/TLS mode "Full (strict)"; "Flexible" redirects in a circle',
    ),
    Cdn(
        "Amazon CloudFront", (".cloudfront.net",),
        "origin domain: the edge, HTTPS only; alternate domain name: the trace domain",
        "origin request policy AllViewer: Host and User-Agent reach us",
        "cache policy CachingDisabled (a minimum TTL above 0 swallows opens)",
        "an ACM certificate for the trace domain in us-east-1; security policy TLSv1.2",
    ),
    Cdn(
        "Tencent EdgeOne", (".eo.dnse0.com", ".eo.dnse1.com", ".eo.dnse2.com", ".eo.dnse3.com",
                            ".eo.dnse4.com", ".eo.dnse5.com"),
        "origin: the edge, protocol HTTPS",
        "Host header towards the origin: that of the accelerated domain name",
        "node cache TTL: do not cache, for every file",
        "an HTTPS certificate for the trace domain; TLS 1.2 and 1.3",
    ),
)  # fmt: skip
ANY_CDN = Cdn(
    "a CDN", (),
    "origin: the edge, over HTTPS",
    "Host and User-Agent towards the origin as the reader sent them",
    "nothing cached: neither .gif nor redirects, whatever their ending",
    "a certificate for the trace domain at the CDN, and one at the origin that it verifies",
)  # fmt: skip


def cdn_of(host: str) -> Cdn:
    """Recognise a CDN by the name that it gave out."""
    return next((cdn for cdn in CDNS if host.endswith(cdn.suffixes)), ANY_CDN)


def cdn_advice(name: str, edge: str, host: str) -> str:
    """Write the zone line of a trace domain behind a CDN, and as comments what to set there."""
    cdn = cdn_of(host)
    return (
        f"; sestrack: {name} behind {cdn.title}; the edge is {edge}\n"
        f";   origin   {cdn.origin}\n"
        f";   host     {cdn.host}\n"
        f";   cache    {cdn.cache}\n"
        f";   TLS      {cdn.tls}\n"
        f";   client   X-Forwarded-For kept; serve --trust-proxy with each network of the CDN\n"
        f"{name}. 3600 IN CNAME {host}.\n"
    )
