#!/bin/sh
# Signs one request with SNWS2 and sends it with curl.
#
#   TOKEN=… SECRET=… call.sh METHOD URL [BODY-FILE [CONTENT-TYPE]]
#
# The query of the URL must be in canonical form already: names sorted, everything but A-Z a-z 0-9 - _ . ~
# percent-encoded in upper case. Needs curl and openssl.
set -eu

method=$1
url=$2
body=${3:-/dev/null}
type=${4:-application/json}

rest=${url#*://}
host=${rest%%/*}
target=/${rest#*/}
path=${target%%\?*}
query=
case $target in *\?*) query=${target#*\?} ;; esac

now=$(date -u +%s)
date=$(LC_ALL=C date -u -d "@$now" '+%a, %d %b %Y %H:%M:%S GMT')
day=$(date -u -d "@$now" +%Y%m%d)
stamp=$(date -u -d "@$now" +%Y%m%dT%H%M%SZ)

sha256() { openssl dgst -sha256 -r | cut -d ' ' -f 1; }
hmac() { openssl dgst -sha256 -r -mac HMAC -macopt "$1" | cut -d ' ' -f 1; }

headers="host:$host
x-sn-date:$date"
names="host;x-sn-date"
if [ "$body" != /dev/null ]; then
    headers="content-type:$type
$headers"
    names="content-type;$names"
fi

canonical="$method
$path
$query
$headers
$names
$(sha256 < "$body")"
message="SNWS2-HMAC-SHA256
$stamp
$(printf %s "$canonical" | sha256)"
key=$(printf %s "$day" | hmac "key:SNWS2$SECRET")
key=$(printf %s snws2_request | hmac "hexkey:$key")
signature=$(printf %s "$message" | hmac "hexkey:$key")

set -- -sS -X "$method" -H "X-SN-Date: $date" -H "Accept: application/json" \
    -H "Authorization: SNWS2 Credential=$TOKEN,SignedHeaders=$names,Signature=$signature"
if [ "$body" != /dev/null ]; then
    set -- "$@" -H "Content-Type: $type" --data-binary "@$body"
fi
exec curl "$@" "$url"
