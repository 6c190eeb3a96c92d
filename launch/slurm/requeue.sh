# shellcheck shell=bash
# Sourced by the scripts of this folder. `wait_or_requeue PID` ends the job with the status of a process. The first SIGTERM, wherever it
# comes, is handed on to it; if it then ends with another status than 0 it is not done, and the job goes back into the queue.
work="" stopped="" handed_on=""
stop() {
  stopped=1
  if [ -n "$work" ] && [ -z "$handed_on" ]; then
    handed_on=1
    kill -TERM "$work" 2>/dev/null || true
  fi
}
trap stop TERM
wait_or_requeue() {
  local status=0
  work=$1
  if [ -n "$stopped" ]; then stop; fi  # it came before there was anything to stop
  wait "$work" || status=$?
  # A wait ends with every signal; the last one with the process.
  while kill -0 "$work" 2>/dev/null; do
    status=0
    wait "$work" || status=$?
  done
  if [ -n "$stopped" ] && [ "$status" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID" || true
  fi
  exit "$status"
}
