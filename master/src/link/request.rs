//! Tells a slave's ordinary upgrade request from every other HTTP request.

use httparse::{EMPTY_HEADER, Header, Status};
use reloop_protocol::wire::SUBPROTOCOL;

const PATH: &str = "/v1/link";

/// The longest head of an ordinary request: a slave's own takes a quarter of this, proxies add the rest.
pub(super) const HEAD_BYTES: usize = 1024;

/// The most header fields of an ordinary request: as many as the WebSocket library takes.
const HEAD_FIELDS: usize = 124;

/// Whether these bytes are one complete upgrade request for a slave's link (RFC 6455, section 4.2.1), and nothing after
/// it. Any other request goes to the router, which says what is wrong with it.
pub(super) fn is_ordinary(head: &[u8]) -> bool {
    let mut fields = [EMPTY_HEADER; HEAD_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    if !matches!(request.parse(head), Ok(Status::Complete(length)) if length == head.len()) {
        return false;
    }
    (request.method, request.path, request.version) == (Some("GET"), Some(PATH), Some(1))
        && has(request.headers, "host")
        && lists(request.headers, "upgrade", "websocket")
        && lists(request.headers, "connection", "upgrade")
        && lists(request.headers, "sec-websocket-version", "13")
        && has(request.headers, "sec-websocket-key")
        && lists(request.headers, "sec-websocket-protocol", SUBPROTOCOL)
}

fn has(fields: &[Header<'_>], name: &str) -> bool {
    fields.iter().any(|field| field.name.eq_ignore_ascii_case(name))
}

/// Whether a field of this name lists `word`, in any case, among the words between its commas.
fn lists(fields: &[Header<'_>], name: &str, word: &str) -> bool {
    let mut named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    named.any(|field| {
        let mut words = field.value.split(|byte| *byte == b',');
        words.any(|given| given.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /v1/link HTTP/1.1\r\nHost: m\r\nConnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: a, reloop.v1\r\n\r\n";

    #[test]
    fn only_a_complete_and_ordinary_request_is_answered_without_the_router() {
        assert!(is_ordinary(HEAD.as_bytes()));
        for (piece, instead) in [
            ("GET", "POST"),
            ("/v1/link", "/v1/links"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Host: m\r\n", ""),
            ("keep-alive, Upgrade", "keep-alive"),
            ("WebSocket\r\n", "h2c\r\n"),
            ("13", "8"),
            ("Sec-WebSocket-Key", "Key"),
            ("reloop.v1", "reloop.v2"),
            ("\r\n\r\n", "\r\n"),
            ("\r\n\r\n", "\r\n\r\nmore"),
            ("Host: m", "Host m"),
            ("Host: m", "Ho st: m"),
            ("Host: m", "Host: m\0"),
        ] {
            let other = HEAD.replacen(piece, instead, 1);
            assert_ne!(other, HEAD);
            assert!(!is_ordinary(other.as_bytes()), "{other}");
        }
        for length in 0..HEAD.len() {
            assert!(!is_ordinary(&HEAD.as_bytes()[..length]), "{length}");
        }
    }

    #[test]
    fn as_many_header_fields_as_the_library_takes_are_ordinary() {
        let own = HEAD.matches("\r\n").count() - 2;
        let with =
            |more: usize| HEAD.replacen("Host: m\r\n", &format!("Host: m\r\n{}", "a:\r\n".repeat(more)), 1);
        let most = with(HEAD_FIELDS - own);
        assert!(most.len() <= HEAD_BYTES);
        assert!(is_ordinary(most.as_bytes()));
        assert!(!is_ordinary(with(HEAD_FIELDS - own + 1).as_bytes()));
    }
}
