//! The interface as an OpenAPI 3.1 document: from the types in `reloop-api` and the attributes of the handlers.
//!
//! Added here is what those can't say: who may use a route, the problem that every guarded route may answer, that
//! every field of an answer is always there, and the table of problem codes.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use reloop_api::Code;
use reloop_api::problem::MEDIA_TYPE;
use serde_json::{Map, Value, json};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{Operation, Parameter, PathItem, Paths};
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Components, SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder, Schema,
    Server,
};
use utoipa::{PartialSchema as _, ToSchema as _};
use utoipa_axum::router::OpenApiRouter;

use super::guard::Access;
use super::routes;

/// The name of the security scheme.
const TOKEN: &str = "token";

/// This document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    operation_id = "show_document",
    responses((status = 200, description = "OpenAPI 3.1.", body = Value, content_type = "application/json")),
)]
pub(super) async fn show() -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], TEXT.as_str())
}

pub(super) fn document() -> Value {
    let license =
        LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Reloop master")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Takes orders and hands them to machines. Additive only: tolerate fields and words that you do not know.",
        ))
        .license(Some(license))
        .build();
    let all = OpenApiRouter::with_openapi(OpenApi::new(info, Paths::new()));
    let mut document =
        routes().into_iter().fold(all, |all, route| all.routes(route.described)).into_openapi();
    document.servers = Some(vec![Server::new("/")]);
    let components = document.components.get_or_insert_default();
    components.schemas.values_mut().for_each(require_all);
    components.schemas.insert(reloop_api::Problem::name().into_owned(), reloop_api::Problem::schema());
    components.add_security_scheme(TOKEN, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    for item in document.paths.paths.values_mut() {
        require_body(item, components);
    }
    let codes = Code::ALL
        .iter()
        .map(|code| (code.name().to_owned(), json!({ "status": code.status(), "title": code.title() })));
    let codes = codes.collect::<Map<_, _>>();
    document.extensions = Some(ExtensionsBuilder::new().add("x-problem-codes", codes).build());
    serde_json::to_value(document).expect("the document is JSON")
}

/// Says who may use an operation, and what comes back if it is not granted.
pub(super) fn restrict(operation: &mut Operation, access: Access) {
    operation.parameters.iter_mut().flatten().for_each(without_null);
    if access == Access::Everybody {
        operation.security = Some(vec![]);
        return;
    }
    operation.security = Some(vec![SecurityRequirement::new(TOKEN, [""; 0])]);
    let schema = Ref::from_schema_name(reloop_api::Problem::name());
    let problem = ResponseBuilder::new()
        .description("A problem, with a stable code.")
        .content(MEDIA_TYPE, ContentBuilder::new().schema(Some(schema)).build());
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem.build()));
    if let Access::From(role) = access {
        operation.extensions = Some(ExtensionsBuilder::new().add("x-role", role.name()).build());
    }
}

/// A parameter may be absent, and never is null.
fn without_null(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(Parameter { schema: Some(RefOr::T(Schema::Object(object))), .. }) = parameter
        && let SchemaType::Array(types) = &object.schema_type
        && let [kind, Type::Null] = types.as_slice()
    {
        object.schema_type = SchemaType::Type(kind.clone());
    }
}

/// Every field of an answer is always there, null or not: the derive counts what may be null as optional. A request,
/// which denies unknown fields, is left as it is.
fn require_all(schema: &mut RefOr<Schema>) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            if matches!(object.additional_properties.as_deref(), Some(AdditionalProperties::FreeForm(false)))
            {
                return;
            }
            object.required = object.properties.keys().cloned().collect();
            object.properties.values_mut().for_each(require_all);
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                require_all(items);
            }
        }
        Schema::AllOf(all) => all.items.iter_mut().for_each(require_all),
        Schema::OneOf(one) => one.items.iter_mut().for_each(require_all),
        Schema::AnyOf(any) => any.items.iter_mut().for_each(require_all),
        _ => {}
    }
}

/// A body may be left out if nothing in it is required.
fn require_body(item: &mut PathItem, components: &Components) {
    let Some(RefOr::T(body)) = item.post.as_mut().and_then(|operation| operation.request_body.as_mut())
    else {
        return;
    };
    let schemas = body.content.values().filter_map(|content| {
        let RefOr::T(content) = content else { return None };
        let RefOr::Ref(target) = content.schema.as_ref()? else { return None };
        components.schemas.get(target.ref_location.rsplit('/').next()?)
    });
    let needs_some = |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if !object.required.is_empty());
    let required = schemas.into_iter().any(needs_some);
    body.required = Some(if required { Required::True } else { Required::False });
}
