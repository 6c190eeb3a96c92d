# shellcheck shell=bash
# Sourced by the scripts of this folder. `wait_or_requeue PID` ends the job with the status of a process. A SIGTERM, which comes before
# the time limit and when the job is preempted, is handed on to it once; if it ends by that it has saved, and the job goes back into the
# queue.
work="" stopped="" handed_on=""
stop() {
  stopped=1
  if [ -n "$work" ] && [ -z "$handed_on" ]; then
    handed_on=1
    kill -TERM "$work"
  fi
}
trap stop TERM
wait_or_requeue() {
  local status=0
  work=$1
  if [ -n "$stopped" ]; then stop; fi  # it came before there was anything to stop
  wait "$work" || status=$?
  # The wait above ends with the signal; this one with the process.
  if kill -0 "$work" 2>/dev/null; then status=0; wait "$work" || status=$?; fi
  if [ -n "$stopped" ] && [ "$status" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$status"
}
