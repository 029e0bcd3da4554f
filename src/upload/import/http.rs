//! The calls of SolarUser's datum import, and what their answers say. Pure.
//!
//! Answers are read leniently: a member that is missing or of another type leads to "send it again",
//! never to a proof and never to an error that stops anything.

use serde_json::Value;

use super::terms::{Job, JobState};
use crate::solarnet::{Application, Body, Call, Method, Priority};

const JOBS: &str = "/api/v1/sec/user/import/jobs";

/// The calls below as a token's policy spells them in `apiPaths`.
pub const API_PATHS: [&str; 2] = ["/user/import/jobs", "/user/import/jobs/*"];

/// Sends a new job.
#[must_use]
pub fn submit(body: Body) -> Call {
    Call { body: Some(body), ..call(Method::Post, JOBS.to_owned()) }
}

/// Lists all jobs that the server still knows, finished ones included.
#[must_use]
pub fn list() -> Call {
    call(Method::Get, JOBS.to_owned())
}

/// Asks for one job; `id` came from [`receipt`] or [`jobs`].
#[must_use]
pub fn status(id: &str) -> Call {
    call(Method::Get, format!("{JOBS}/{id}"))
}

fn call(method: Method, path: String) -> Call {
    Call {
        application: Application::User,
        priority: Priority::Bulk,
        method,
        path,
        query: Vec::new(),
        body: None,
    }
}

/// The job's ID in the answer to [`submit`].
#[must_use]
pub fn receipt(data: &Value) -> Option<String> {
    job_id(data)
}

/// The jobs in the answer to [`list`]; what cannot be read is left out.
#[must_use]
pub fn jobs(data: &Value) -> Vec<Job> {
    data.as_array().into_iter().flatten().filter_map(job).collect()
}

/// The IDs of the jobs in the answer to [`list`] that are under way and of this group, or of one of its
/// kind.
#[must_use]
pub fn open_jobs(data: &Value, group: &str) -> Vec<String> {
    let of_group = |job: &&Value| {
        let rest = job["groupKey"].as_str().and_then(|key| key.strip_prefix(group));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let all = data.as_array().into_iter().flatten();
    let open = all.filter(of_group).filter_map(job).filter(|job| job.state == JobState::Pending);
    open.map(|job| job.id).collect()
}

/// The job in the answer to [`status`].
#[must_use]
pub fn job(data: &Value) -> Option<Job> {
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    let state = data["jobState"].as_str().unwrap_or_default();
    Some(Job {
        id: job_id(data)?,
        name: data["configuration"]["name"].as_str().map(str::to_owned),
        state: match state {
            "Completed" => JobState::Completed,
            "Staged" | "Queued" | "Claimed" | "Executing" => JobState::Pending,
            _ => JobState::Lost,
        },
        success: data["success"].as_bool() == Some(true),
        loaded: data["loadedCount"].as_u64(),
        message: text("message"),
        progress: format!("{state} {} {}", data["percentComplete"], data["loadedCount"]),
    })
}

/// A job's ID becomes part of a path: nothing but what a UUID is made of.
fn job_id(data: &Value) -> Option<String> {
    let id = data["jobId"].as_str()?;
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (plain && (1..=64).contains(&id.len())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_is_read_as_the_server_writes_it() {
        let data = json!({ "userId": 987, "jobId": "5d0f6c1e-3b0e-4a7f-9d4a-0c6b1a2f7e11",
            "jobState": "Completed", "percentComplete": 1.0, "success": true,
            "message": "Loaded 3 datum.", "loadedCount": 3, "done": true,
            "configuration": { "name": "1f 1-3" } });
        let read = job(&data).expect("a job");
        assert_eq!(read.state, JobState::Completed);
        assert_eq!((read.success, read.loaded), (true, Some(3)));
        assert_eq!(read.name.as_deref(), Some("1f 1-3"));
        assert_eq!(jobs(&json!([data, 5, {}])), [read]);
    }

    #[test]
    fn odd_members_never_look_like_a_proof() {
        let with = |success: Value, loaded: Value, state: Value| {
            job(&json!({ "jobId": "j", "jobState": state, "success": success, "loadedCount": loaded }))
                .expect("a job")
        };
        assert!(!with(json!("true"), json!(3), json!("Completed")).success);
        assert_eq!(with(json!(true), json!("3"), json!("Completed")).loaded, None);
        assert_eq!(with(json!(true), json!(-3), json!("Completed")).loaded, None);
        assert_eq!(with(json!(true), json!(3), json!("completed")).state, JobState::Lost);
        assert_eq!(with(json!(true), json!(3), Value::Null).state, JobState::Lost);
    }

    #[test]
    fn the_declared_paths_are_those_of_the_calls() {
        let body = Body { content_type: String::new(), bytes: bytes::Bytes::new() };
        let paths = [submit(body), list(), status("5d0f")].map(|call| call.path);
        let [jobs, one] = API_PATHS.map(|path| format!("/api/v1/sec{path}"));
        assert_eq!(paths, [jobs.clone(), jobs, one.replace('*', "5d0f")]);
    }

    #[test]
    fn foreign_text_cannot_become_a_path() {
        for id in ["", "../token", "a/b", "a?b", "a b", "\u{e4}", &"x".repeat(65)] {
            assert_eq!(receipt(&json!({ "jobId": id })), None, "{id}");
        }
        assert_eq!(receipt(&Value::Null), None);
        assert_eq!(status("5d0f").path, "/api/v1/sec/user/import/jobs/5d0f");
    }

    #[test]
    fn open_jobs_are_those_of_the_node_that_are_under_way() {
        let jobs: Vec<Value> = [
            ("a", "agent-12", "Executing"),
            ("b", "agent-12-3", "Queued"),
            ("c", "agent-12", "Completed"),
            ("d", "agent-123", "Executing"),
            ("e", "other", "Queued"),
            ("f", "agent-12", "Retracted"),
        ]
        .map(|(id, group, state)| json!({"jobId": id, "groupKey": group, "jobState": state}))
        .into();
        assert_eq!(open_jobs(&json!(jobs), "agent-12"), ["a", "b"]);
        assert_eq!(open_jobs(&json!({}), "agent-12"), [""; 0]);
    }
}
