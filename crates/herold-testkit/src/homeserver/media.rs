//! The media repository.

use std::sync::Arc;

use serde_json::json;

use super::HomeServer;
use super::http::{Answer, ApiError, Call, ServerResponse};
use super::model::Requester;

/// The largest upload.
const MAX_UPLOAD: usize = 50 * 1024 * 1024;

#[derive(Clone, Debug)]
pub(super) struct Media {
    content_type: String,
    owner: String,
    /// `None` between creating the URI and uploading to it.
    data: Option<Arc<[u8]>>,
}

impl HomeServer {
    pub(super) fn media_config() -> serde_json::Value {
        json!({ "m.upload.size": MAX_UPLOAD })
    }

    fn new_media(&mut self, requester: &Requester) -> (String, String) {
        let id = self.letters("media", 24, false);
        let server = super::ids::server_of(&requester.user).to_owned();
        let owner = requester.user.clone();
        let media = Media { content_type: String::new(), owner, data: None };
        self.media.insert((server.clone(), id.clone()), media);
        (server, id)
    }

    pub(super) fn create_media(&mut self, call: &Call<'_>, requester: &Requester) -> Answer {
        let (server, id) = self.new_media(requester);
        Ok(json!({
            "content_uri": format!("mxc://{server}/{id}"),
            "unused_expires_at": call.now_ms.saturating_add(24 * 60 * 60 * 1000),
        }))
    }

    pub(super) fn upload(&mut self, call: &Call<'_>, requester: &Requester) -> Answer {
        let (server, id) = self.new_media(requester);
        self.upload_to(call, requester, &server, &id)?;
        Ok(json!({ "content_uri": format!("mxc://{server}/{id}") }))
    }

    pub(super) fn upload_to(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        server: &str,
        id: &str,
    ) -> Answer {
        if call.request.body.len() > MAX_UPLOAD {
            return Err(ApiError::new(413, "M_TOO_LARGE", "Upload request body is too large"));
        }
        let media = self
            .media
            .get_mut(&(server.to_owned(), id.to_owned()))
            .ok_or_else(|| ApiError::not_found("Unknown media ID"))?;
        if media.owner != requester.user {
            return Err(ApiError::forbidden("Only the creator of the media ID can upload to it"));
        }
        if media.data.is_some() {
            let error = "Media ID already has content";
            return Err(ApiError::new(409, "M_CANNOT_OVERWRITE_MEDIA", error));
        }
        let fallback = "application/octet-stream";
        media.content_type = call.request.content_type.as_deref().unwrap_or(fallback).to_owned();
        media.data = Some(call.request.body.as_slice().into());
        Ok(json!({}))
    }

    pub(super) fn download(&self, server: &str, id: &str) -> Result<ServerResponse, ApiError> {
        let media = self
            .media
            .get(&(server.to_owned(), id.to_owned()))
            .filter(|_| !self.failing.contains(server))
            .ok_or_else(|| ApiError::not_found("Not found"))?;
        let Some(data) = &media.data else {
            let error = "Media has not been uploaded yet";
            return Err(ApiError::new(504, "M_NOT_YET_UPLOADED", error));
        };
        Ok(ServerResponse {
            status: 200,
            retry_after_ms: None,
            content_type: media.content_type.clone(),
            body: data.to_vec(),
        })
    }
}
