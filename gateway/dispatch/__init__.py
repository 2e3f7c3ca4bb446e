"""What the outbox holds is sent: remediation tasks to the roadmap file, notices to webhooks."""
