//! The web page: three files in the program, nothing from anywhere else.

use axum::http::header;
use axum::response::IntoResponse;

const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The web page.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "page_index",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html")),
)]
pub(super) async fn index() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// The web page's script.
#[utoipa::path(
    get,
    path = "/assets/app.js",
    operation_id = "page_script",
    responses((status = 200, description = "The script.", body = String, content_type = "text/javascript")),
)]
pub(super) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("page/app.js"))
}

/// The web page's style.
#[utoipa::path(
    get,
    path = "/assets/app.css",
    operation_id = "page_style",
    responses((status = 200, description = "The style.", body = String, content_type = "text/css")),
)]
pub(super) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("page/app.css"))
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // A new release brings new files under the same names.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
