"""The settings of the lab's homeservers."""
import os

from signedjson import key as signing_key


def make_signing_key(path):
    if not os.path.exists(path):
        with open(path, "w") as file:
            signing_key.write_signing_keys(file, [signing_key.generate_signing_key("lab")])


def homeserver_settings(lab, which):
    """No limits on rates, since the bench is quicker than people; short times for what Synapse does later."""
    folder, unlimited = f"{lab.folder}/{which}", {"per_second": 100000, "burst_count": 100000}
    listener = {"type": "http", "bind_addresses": ["127.0.0.1"], "resources": [{"names": ["client", "federation"]}]}
    return {
        "server_name": lab.name[which],
        "pid_file": folder + "/pid",
        "signing_key_path": folder + "/signing.key",
        "tls_certificate_path": lab.certificate,
        "tls_private_key_path": lab.certificate_key,
        "federation_custom_ca_list": [lab.certificate],
        "listeners": [{**listener, "port": lab.ports[which], "tls": True},
                      {**listener, "port": lab.ports[which + "_plain"], "tls": False, "x_forwarded": True}],
        "database": {"name": "psycopg2", "args": {
            "user": "postgres", "database": which, "host": "127.0.0.1", "port": lab.ports["database"],
            "cp_min": 2, "cp_max": 10}},
        "log_config": folder + "/log.yaml",
        "media_store_path": folder + "/media",
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "registration_shared_secret": "lab",
        "report_stats": False,
        "macaroon_secret_key": "lab",
        "form_secret": "lab",
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "rc_message": unlimited,
        "rc_registration": unlimited,
        "rc_joins": {"local": unlimited, "remote": unlimited},
        "rc_joins_per_room": unlimited,
        "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
        "rc_login": {"address": unlimited, "account": unlimited},
        "rc_room_creation": unlimited,
        "rc_federation": {"window_size": 1000, "sleep_limit": 1000000, "sleep_delay": 1,
                          "reject_limit": 1000000, "concurrent": 100},
        "presence": {"enabled": False},
        "forget_rooms_on_leave": False,
        "redaction_retention_period": "5s",
        "enable_ephemeral_messages": True,
        "modules": [{"module": "lab_module.LabModule", "config": {}}],
        "experimental_features": {"msc4293_enabled": True},
    }


def logging_settings(path):
    return {
        "version": 1,
        "formatters": {"precise": {"format": "%(asctime)s %(levelname)s %(name)s %(request)s %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "formatter": "precise", "filename": path}},
        "root": {"level": "INFO", "handlers": ["file"]},
        "disable_existing_loggers": False,
    }
