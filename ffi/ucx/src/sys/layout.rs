//! The bindings against the headers of this machine: a small C program prints what the compiler makes of them.

use std::fmt::Write;
use std::mem::offset_of;
use std::process::{Command, Output};

use super::*;

/// Status of a program that was compiled without its header.
const NO_HEADER: i32 = 77;

/// What C code would print, and what Rust says, in the same order.
#[derive(Default)]
struct Comparison {
    program: String,
    expected: String,
}

impl Comparison {
    fn value(&mut self, name: &str, expression: &str, ours: i64) {
        writeln!(self.program, "printf(\"{name} %lld\\n\", (long long)({expression}));").unwrap();
        writeln!(self.expected, "{name} {ours}").unwrap();
    }
}

/// Compares places of fields, and whether ours is at least as long as theirs.
macro_rules! layout {
    ($to:ident, $($c:literal $rust:ident { $($($part:ident).+),* $(,)? })*) => {
        $(
            $to.value(
                &format!("{} is not longer", $c),
                &format!("sizeof({}) <= {}", $c, size_of::<$rust>()),
                1,
            );
            $(
                let field = stringify!($($part).+).replace(' ', "");
                let expression = format!("offsetof({}, {field})", $c);
                $to.value(&format!("{}.{field}", $c), &expression, offset_of!($rust, $($part).+) as i64);
            )*
        )*
    };
}

#[test]
fn bindings_are_what_the_headers_declare() {
    let mut comparison = Comparison::default();
    let to = &mut comparison;
    layout! { to,
        "ucp_params_t" ucp_params {
            field_mask, features, request_size, request_init, request_cleanup, tag_sender_mask, mt_workers_shared,
            estimated_num_eps, estimated_num_ppn, name,
        }
        "ucp_worker_params_t" ucp_worker_params {
            field_mask, thread_mode, cpu_mask, events, user_data, event_fd, flags, name, am_alignment, client_id,
        }
        "ucs_sock_addr_t" ucs_sock_addr { addr, addrlen }
        "ucp_err_handler_t" ucp_err_handler { cb, arg }
        "ucp_ep_params_t" ucp_ep_params {
            field_mask, address, err_mode, err_handler, user_data, flags, sockaddr, conn_request, name,
            local_sockaddr,
        }
        "ucp_mem_map_params_t" ucp_mem_map_params { field_mask, address, length, flags, prot, memory_type }
        "ucp_request_param_t" ucp_request_param {
            op_attr_mask, flags, request, cb, datatype, user_data, reply_buffer, memory_type, recv_info, memh,
        }
        "ucp_am_handler_param_t" ucp_am_handler_param { field_mask, id, flags, cb, arg }
        "ucp_am_recv_param_t" ucp_am_recv_param { recv_attr, reply_ep }
    }
    to.value("size of ucs_status_t", "sizeof(ucs_status_t)", size_of::<ucs_status_t>() as i64);
    to.value("size of ucs_sock_addr_t", "sizeof(ucs_sock_addr_t)", size_of::<ucs_sock_addr>() as i64);
    for (name, value) in ALL {
        to.value(name, name, *value);
    }
    comparison.check();
}

impl Comparison {
    fn check(&self) {
        let Some(ran) = compile_and_run(&self.program) else {
            eprintln!("skipped: there is no C compiler by the name of cc");
            return;
        };
        if ran.status.code() == Some(NO_HEADER) {
            eprintln!("skipped: the compiler finds no ucp/api/ucp.h (apt install libucx-dev)");
            return;
        }
        assert!(ran.status.success());
        let printed = String::from_utf8(ran.stdout).unwrap();
        let differing: Vec<_> =
            printed.lines().zip(self.expected.lines()).filter(|(theirs, ours)| theirs != ours).collect();
        assert!(differing.is_empty(), "header and bindings differ: {differing:#?}");
        assert_eq!(printed, self.expected);
    }
}

/// What the program does, or nothing when there is no C compiler.
fn compile_and_run(body: &str) -> Option<Output> {
    let directory = tempfile::tempdir().unwrap();
    let (source, binary) = (directory.path().join("layout.c"), directory.path().join("layout"));
    let program = format!(
        "#if !__has_include(<ucp/api/ucp.h>) || !__has_include(<ucs/debug/log_def.h>)\n\
         int main(void) {{ return {NO_HEADER}; }}\n#else\n\
         #include <stddef.h>\n#include <stdarg.h>\n#include <stdio.h>\n#include <ucp/api/ucp.h>\n\
         #include <ucs/debug/log_def.h>\n\
         int main(void) {{\n{body}return 0; }}\n#endif\n"
    );
    std::fs::write(&source, program).unwrap();
    let compiled = match Command::new("cc").arg(&source).arg("-o").arg(&binary).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        other => other.unwrap(),
    };
    assert!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
    Some(Command::new(&binary).output().unwrap())
}
