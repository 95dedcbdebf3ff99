"""Tracked mail from a program: by smtplib, and as a backend for Django.

A copy is made for each recipient, so that opens and clicks are theirs.
"""

from __future__ import annotations

import re
import smtplib
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.mail.backends.smtp import EmailBackend

from sestrack import Tracking

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def send(
    smtp: smtplib.SMTP, tracking: Tracking, mail: EmailMessage, recipients: Iterable[str]
) -> None:
    """Send a mail to each recipient, tracked under the label "june"."""
    raw = mail.as_bytes(policy=SMTP)
    for recipient in recipients:
        copy = tracking.rewrite_message(raw, recipient, label="june")
        smtp.sendmail(str(mail["From"]), [recipient], copy.data)


class TrackingBackend(EmailBackend):  # type: ignore[misc]  # Django has no types
    """EMAIL_BACKEND = "senders.TrackingBackend"; SESTRACK_STORE and SESTRACK_SENDER beside it.

    From Django 6.1 on it is the BACKEND of one of MAILERS.  The header X-Message of a mail is
    its label.
    """

    def send_messages(self, email_messages: Sequence[Any]) -> int:
        """Send; return how many mails went out."""
        # read each time, so that a change of the settings is seen
        tracking = Tracking.of(settings.SESTRACK_STORE, settings.SESTRACK_SENDER)
        self.open()
        try:
            for mail in email_messages:
                raw = re.sub(rb"\r?\n", b"\r\n", mail.message().as_bytes())
                label = mail.extra_headers.get("X-Message", "")
                for recipient in mail.recipients():
                    copy = tracking.rewrite_message(raw, recipient, label)
                    self.connection.sendmail(mail.from_email, [recipient], copy.data)
        finally:
            self.close()
        return len(email_messages)
