//! `/solaruser/api/v1/sec/user/import`: import jobs. `preview` and changing a staged job's configuration are
//! not played.

use std::time::Instant;

use serde_json::{Value, json};

use super::Call;
use crate::answer::{Answer, Refusal};
use crate::import::config::ImportConfig;
use crate::import::multipart;
use crate::world::World;
use crate::world::job::NewJob;

impl World {
    pub(super) fn import_call(
        &mut self,
        method: &str,
        path: &str,
        call: &Call<'_>,
    ) -> Result<Answer, Refusal> {
        let user = call.caller.user;
        match (method, path) {
            ("POST", "/jobs") => self.submit(call),
            ("GET", "/jobs") => {
                let states = call.list(&["states"]);
                let fits = |state: &str| states.is_empty() || states.contains(&state);
                let jobs = self.jobs.all().into_iter();
                let jobs = jobs.filter(|job| job.user == user && fits(job.state.name()));
                Ok(Answer::data(jobs.map(|job| job.to_json()).collect()))
            }
            (method, path) => {
                let rest = path.strip_prefix("/jobs/").ok_or_else(Refusal::not_found)?;
                let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
                if !is_uuid(id) {
                    return Err(Refusal::illegal_argument(format!("Invalid UUID string: {id}")));
                }
                let status = match (method, action) {
                    ("GET", "") => self.jobs.get(user, id).map(|job| job.to_json()),
                    ("DELETE", "") => {
                        self.jobs.retract(user, id, call.parameter("force") == Some("true"))
                    }
                    ("POST", "confirm") => {
                        let status = self.jobs.confirm(user, id, Instant::now());
                        self.advance();
                        status
                    }
                    _ => return Err(Refusal::not_found()),
                };
                status.map(Answer::data).ok_or_else(Refusal::unknown_object)
            }
        }
    }

    fn submit(&mut self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let content_type = call.request.header("content-type").unwrap_or_default();
        if !call.request.is_multipart() {
            return Err(Refusal::invalid(format!(
                "Content-Type '{content_type}' is not supported"
            )));
        }
        let parts = multipart::parse(content_type, &call.request.body)
            .ok_or_else(|| Refusal::invalid("Failed to parse multipart request"))?;
        let part = |name: &str| {
            parts
                .iter()
                .find(|part| part.name == name)
                .ok_or_else(|| Refusal::invalid(format!("Required part '{name}' is not present.")))
        };
        let (config, data) = (part("config")?, part("data")?);
        if !config.content_type.as_deref().is_some_and(is_json) {
            return Err(Refusal::invalid("The part 'config' needs Content-Type application/json"));
        }
        if data.file_name.is_none() {
            return Err(Refusal::invalid("Required part 'data' is not present."));
        }
        let configuration: Value =
            serde_json::from_slice(config.body).map_err(Refusal::malformed_json)?;
        let config = ImportConfig::read(&configuration)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let new = NewJob {
            user: call.caller.user,
            token: call.caller.token.clone(),
            config,
            configuration,
            data: call.request.body.slice_ref(data.body),
            act: call.act.cloned(),
        };
        let receipt = self.jobs.submit(new, Instant::now(), call.now);
        Ok(Answer::json(200, &json!({ "success": true, "data": receipt })))
    }
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|media| media.trim() == "application/json")
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}
